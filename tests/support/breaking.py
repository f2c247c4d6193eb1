"""A server and a client with a network between them that breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.events import SessionEvent
from rusb.client.session import ClientSession, connect
from tests.support.whole_path import Lab


class Wire:
    """A network between client and server, which breaks in various ways."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.port = 0
        self._address = address  # where it comes from
        self.is_down = False  # nobody answers
        self.far = port
        self._near: list[asyncio.StreamWriter] = []
        self._far: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent = asyncio.Event()
        self._silent.set()
        self._answers = asyncio.Event()
        self._answers.set()
        self._server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator["Wire"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.is_down:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", self.far, local_addr=(self._address, 0)
        )
        self._near.append(writer)
        self._far.append(far_writer)
        silent, answers = self._silent, self._answers
        for reads, writes, may_move in (
            (reader, far_writer, (silent,)),
            (far_reader, writer, (silent, answers)),
        ):
            task = asyncio.ensure_future(self._pump(reads, writes, may_move))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        may_move: tuple[asyncio.Event, ...],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for one in may_move:
                    await one.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def cut(self, *, is_far_told: bool = True) -> None:
        """Every connection is reset, at both ends or at the client's alone."""
        if not is_far_told:
            for task in self._tasks:
                task.cancel()
        closed = self._near + self._far * is_far_told
        self._near, self._far = [], [] if is_far_told else self._far
        for writer in closed:
            writer.transport.abort()

    def hold(self) -> None:
        """What is connected moves no byte, until :meth:`let_go`."""
        self._silent.clear()

    def hold_answers(self) -> None:
        """What the server says is not heard, until :meth:`let_go`."""
        self._answers.clear()

    def let_go(self) -> None:
        """It moves again; nothing was lost."""
        self._silent.set()
        self._answers.set()

    def silence(self) -> None:
        """What is connected moves no byte any more; new connections do."""
        self._silent.clear()
        self._silent = asyncio.Event()
        self._silent.set()


async def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    while not what():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


class Net(Lab):
    """A lab whose clients are connected over a wire that breaks."""

    wire: Wire
    is_usb_only = False

    def config(self) -> ClientConfig:
        return replace(
            super().config(),
            port=self.wire.port,
            reconnect=True,
            is_usb_only=self.is_usb_only,
        )

    @contextlib.asynccontextmanager
    async def client(self, backend: EmulatedBackend) -> AsyncIterator[ClientSession]:
        self.events: list[SessionEvent] = []
        async with connect(
            self.config(), backends=[backend], on_event=self.events.append
        ) as session:
            yield session

    def told(self) -> str:
        """What the client said so far."""
        return "\n".join(map(str, self.events))

    async def wait_told(self, text: str) -> None:
        await until(lambda: text in self.told())
