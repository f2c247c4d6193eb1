"""Programs that use pyusb with a remote device, as they would on a Linux host."""

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import usb.core

from rusb.client.backends.emulated import Data, EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests import _stream
from rusb.server.guests._pyusb_backend import Backend
from rusb.server.guests.pyusb import PyusbGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine

T = TypeVar("T")
SOURCE, SINK = Loopback.SOURCE, Loopback.SINK
ECHO_IN, ECHO_OUT = Loopback.BULK_IN, Loopback.BULK_OUT


class Talker(Loopback):
    """Its interrupt endpoint always has something to say, if it *talks*."""

    talks = False

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if self.talks and endpoint == self.INTERRUPT_IN:
            return bytes(room)
        return super().data_in(endpoint, room)


class Bench:
    """A remote device, and the folder in which programs find it."""

    def __init__(self, folder: Path) -> None:
        self.device = Talker()
        self.backend = EmulatedBackend(devices=[self.device])
        self.bus = folder / "bus"

    async def run(self, program: Callable[[Any], T]) -> T:
        """Run *program* with the device in a thread; then it has ended."""

        def work() -> T:
            backend = Backend(self.bus)
            found = usb.core.find(backend=backend, idVendor=0x1209)
            assert found is not None
            try:
                return program(found)
            finally:
                usb.util.dispose_resources(found)
                for remote in backend._remotes.values():
                    remote.close()

        return await asyncio.to_thread(work)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    machine = Machine(name="Bench", filters=(Filter("all"),), usb_controllers=("XHCI",))
    log = tmp_path / "VBox.log"
    config = ServerConfig(
        machine, ports=[0], address="127.0.0.1", log=str(log), state=tmp_path
    )
    async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        server = Server(config, guest=PyusbGuest(str(made.bus)))
        await stack.enter_async_context(server)
        client = ClientConfig("127.0.0.1", server.port, known_servers=tmp_path / "k")
        await stack.enter_async_context(connect(client, backends=[made.backend]))
        while "VUSB: Attached" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        yield made


def failure(call: Callable[[], object]) -> tuple[int, int]:
    """The number of the system and libusb's of the error that *call* raises."""
    with pytest.raises(usb.core.USBError) as caught:
        call()
    return caught.value.errno, caught.value.backend_error_code


async def test_a_device_is_configured_before_anybody_asks(bench: Bench) -> None:
    def program(device: Any) -> tuple[int, bytes]:
        active = device.get_active_configuration().bConfigurationValue
        device.write(ECHO_OUT, b"hello")
        return active, bytes(device.read(ECHO_IN, 64))

    assert await bench.run(program) == (1, b"hello")
    assert await bench.run(program) == (1, b"hello")  # the next one finds it so, too


async def test_what_came_before_the_time_out_is_returned(bench: Bench) -> None:
    def program(device: Any) -> None:
        device.write(ECHO_OUT, bytes(512))  # a full packet: the transfer goes on
        assert len(device.read(ECHO_IN, 1024, timeout=200)) == 512
        before = failure(lambda: device.read(ECHO_IN, 1024, timeout=100))
        assert before == (errno.ETIMEDOUT, -7)
        device.write(ECHO_OUT, b"after")
        assert bytes(device.read(ECHO_IN, 1024, timeout=1000)) == b"after"

    await bench.run(program)


async def test_errors_have_the_numbers_of_libusb(bench: Bench) -> None:
    def program(device: Any) -> None:
        unknown = lambda: device.ctrl_transfer(0xC0, 99, 0, 0, 8)  # noqa: E731
        assert failure(unknown) == (errno.EPIPE, -9)
        poll = lambda: device.read(Loopback.INTERRUPT_IN, 8, timeout=50)  # noqa: E731
        assert failure(poll) == (errno.ETIMEDOUT, -7)

    await bench.run(program)


async def test_an_unplug_ends_a_transfer_with_no_device(bench: Bench) -> None:
    loop = asyncio.get_running_loop()

    def program(device: Any) -> None:
        device.write(ECHO_OUT, b"x")
        device.read(ECHO_IN, 64)
        unplug = lambda: bench.backend.unplug(bench.device)  # noqa: E731
        loop.call_soon_threadsafe(loop.call_later, 0.1, unplug)
        read = lambda: device.read(ECHO_IN, 64, timeout=5000)  # noqa: E731
        assert failure(read) == (errno.ENODEV, -4)
        assert failure(read) == (errno.ENODEV, -4)

    await bench.run(program)


async def test_threads_that_read_and_write_much_do_not_block_each_other(
    bench: Bench,
) -> None:
    size = 8 << 20

    def program(device: Any) -> list[int]:
        moved: list[int] = []

        def read() -> None:
            moved.append(len(device.read(SOURCE, size, timeout=10_000)))

        def write() -> None:
            moved.append(device.write(SINK, bytes(size), timeout=10_000))

        threads = [threading.Thread(target=t) for t in (read, read, write, write)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return moved

    assert await bench.run(program) == [size] * 4


async def test_a_program_with_one_thread_stays_one(bench: Bench) -> None:
    before = threading.active_count()

    def program(device: Any) -> int:
        device.write(ECHO_OUT, b"hello")
        device.read(ECHO_IN, 64)
        return threading.active_count()

    assert await bench.run(program) == before + 1  # the one that to_thread makes


async def test_threads_wait_for_each_other_and_take_turns(bench: Bench) -> None:
    """The one that reads goes first, and what others wait for comes all the same."""

    def program(device: Any) -> bytes:
        came: list[bytes] = []

        def brief() -> None:
            poll = lambda: device.read(Loopback.INTERRUPT_IN, 8, timeout=100)  # noqa: E731
            assert failure(poll) == (errno.ETIMEDOUT, -7)

        def long() -> None:
            came.append(bytes(device.read(ECHO_IN, 64, timeout=5000)))

        threads = [threading.Thread(target=t) for t in (brief, long)]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        threads[0].join()
        device.write(ECHO_OUT, b"late", timeout=5000)
        threads[1].join()
        return came[0]

    assert await bench.run(program) == b"late"


async def test_an_unplug_while_the_program_does_nothing_is_noticed(
    bench: Bench,
) -> None:
    loop = asyncio.get_running_loop()

    def program(device: Any) -> list[Any]:
        backend = device.backend
        assert len(list(backend.enumerate_devices())) == 1
        loop.call_soon_threadsafe(bench.backend.unplug, bench.device)
        while bench.bus.joinpath("usb-1.usb").exists():
            time.sleep(0.01)
        assert failure(lambda: device.read(ECHO_IN, 64)) == (errno.ENODEV, -4)
        return list(backend.enumerate_devices())

    assert await bench.run(program) == []


async def test_a_server_that_has_much_to_say_is_heard_while_we_send(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing more from a program that does not listen."""
    monkeypatch.setattr(_stream, "WRITE_HIGH", 64 << 10)
    size = 4 << 20

    def program(device: Any) -> int:
        bench.device.talks = True
        assert len(device.read(Loopback.INTERRUPT_IN, 64)) == 64
        time.sleep(1)  # and nobody reads what it says
        written: int = device.write(SINK, bytes(size), timeout=10_000)
        bench.device.talks = False
        return written

    assert await bench.run(program) == size
