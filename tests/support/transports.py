"""Transports without a network."""

import asyncio

__all__ = ["Noting"]


class Noting(asyncio.Transport):
    """One that takes everything, and notes it; its protocol hears of no end."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_over = False

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    abort = close
