"""The guest's screen: the asyncio side of QEMU's VNC server (display.md 2)."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from rusb.aio.tasks import TaskSet
from rusb.errors import GuestError, RemoteProtocolError, RusbError
from rusb.oserrors import reason
from rusb.rdp.graphics.pointers import Cursor, straight_alpha
from rusb.rfb import events as rfb
from rusb.rfb.client import RfbClient

from .base import Paint, ScreenAccess, ScreenSource
from .qmp_input import QmpInput

__all__ = ["GuestScreen"]

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 5.0
"""Seconds until QEMU's VNC server must have told the size of the screen."""

FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
"""Seconds until it is tried again to reach a screen: twice as many each time."""

SIZE = 1280, 800
"""Pixels of a further head at the start, like the first one's."""

POKE, REST_POKE = 0.025, 0.25
"""Seconds between two pokes, and when nothing happens."""

RESTS_AFTER = 10.0
"""Seconds without a change or a key after which nothing happens."""

MAX_UNREAD = 16 << 10
"""Bytes that QEMU has yet to read above which nothing is pressed or moved any more, and
nothing of QEMU's is read, much of which wants an answer: it hangs, or a viewer types
thousands of keys at once. What a turn of a viewer brings fits. A busy QEMU takes up to
half a millisecond for a click of six bytes, and shows nothing meanwhile."""

UNSENT = 8 << 10
"""The same of the kernel, which would keep 200 KiB."""


class GuestScreen(ScreenSource):
    """A screen of a running guest, which is reached again when it goes away.

    Args:
        access: how it is reached.
        head: which one, counted from 0.
        switched: called when it is there, and when it is gone.

    Attributes:
        is_there: is there a picture?
        problem: why not; empty: that is not known yet, or nothing is wrong.
        heard: called with what happens to the guest's sound and clipboard, and with
            each new connection, which knows nothing of the one before.
    """

    def __init__(
        self, access: ScreenAccess, head: int, switched: Callable[[], None]
    ) -> None:
        self._access = access
        self._head = head
        self._switched = switched
        self.is_there = False
        self.problem = ""
        self.heard: Callable[[rfb.Event], None] = lambda event: None
        self._is_watched = self._wants_sound = False
        self._can_resize = True
        self._protocol: _Protocol | None = None
        self._tasks = TaskSet()
        self._input = QmpInput(self._send_input)
        self._poking: asyncio.TimerHandle | None = None
        self._happened = 0.0
        self._down: set[int] = set()  # keys, as QEMU knows
        self._held = 0  # buttons, likewise
        self._told = ""  # the latest problem in the log

    def start(self) -> None:
        """Reach the screen, now and whenever it is gone."""
        self._tasks.start(self._run(), f"screen {self._head}")

    async def aclose(self) -> None:
        """Let go of it. Idempotent."""
        await self._tasks.aclose()
        await self._input.aclose()

    # ------------------------------------------------------------- contract ----

    def painter(self, width: int, height: int) -> Paint:
        assert self._protocol is not None
        frame = self._protocol.core.frame
        return lambda: frame

    def watch(self, *, is_watched: bool) -> None:
        if self._protocol is not None:
            self._protocol.core.watch(is_watched=is_watched)
            self._protocol.flush()
        if is_watched != self._is_watched:
            self._is_watched = is_watched
            self._poke()

    def resize(self, width: int, height: int) -> None:
        if self._protocol is not None and self.is_there and self._can_resize:
            self._protocol.core.resize(width, height)
            self._protocol.flush()

    def key(self, code: int, *, is_down: bool) -> None:
        if self._protocol is None:
            return
        if is_down and self._protocol.is_full:
            return
        if not is_down and code not in self._down:  # it was not passed on
            return
        (self._down.add if is_down else self._down.discard)(code)
        self._protocol.core.key(code, is_down=is_down)
        self._protocol.flush()
        self._note_life()

    def pointer(self, buttons: int, x: int, y: int) -> None:
        if self._protocol is None:
            return
        is_release = buttons != self._held and not buttons & ~self._held
        if self._protocol.is_full and not is_release:
            return
        self._held = buttons
        if self._access.has_tablets and self.size is not None:
            self._input.pointer(buttons, x, y, self.size)
        else:
            self._protocol.core.pointer(buttons, x, y)
        self._protocol.flush()
        self._note_life()

    def button(self, name: str, *, is_down: bool) -> None:
        if self.is_there:
            self._input.button(name, is_down=is_down)

    # ----------------------------------------------------- sound, clipboard ----

    def want_sound(self, *, is_wanted: bool) -> None:
        """Let the guest send what it plays, or stop it."""
        self._wants_sound = is_wanted
        self._say(lambda core: core.want_sound(is_wanted=is_wanted))

    def offer_text(self, *, has_text: bool) -> None:
        """Tell the guest that our clipboard has text, or has none."""
        self._say(lambda core: core.offer_text(has_text=has_text))

    def request_text(self) -> None:
        """Ask for the text of the guest's clipboard."""
        self._say(RfbClient.request_text)

    def provide_text(self, text: str) -> None:
        """Send the guest the text that it asked for."""
        self._say(lambda core: core.provide_text(text))

    def _say(self, say: Callable[[RfbClient], None]) -> None:
        if self._protocol is not None:
            say(self._protocol.core)
            self._protocol.flush()

    async def _send_input(self, events: Sequence[Mapping[str, object]]) -> None:
        await self._access.send_input(self._head, events)

    # ----------------------------------------------------------- connection ----

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                sock = await self._access.open_screen(self._head)
                if sock is None:
                    return
                if await self._follow(sock):
                    pause = FIRST_PAUSE
            except RusbError as error:
                self._note(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def _note(self, problem: str, level: int = logging.INFO) -> None:
        if problem != self._told:
            log.log(level, "screen %d: %s", self._head, problem)
            self._told = problem
        if problem != self.problem:
            self.problem = problem
            self._switched()

    async def _follow(self, sock: socket.socket) -> bool:
        """Show what comes until the connection ends.

        Returns:
            There was a screen, and it kept to the rules.
        """
        loop = asyncio.get_running_loop()
        protocol = _Protocol(self._handle)
        try:
            await loop.create_unix_connection(lambda: protocol, sock=sock)
        except OSError as error:
            sock.close()
            raise GuestError(f"QEMU's screen: {reason(error)}") from error
        self._protocol = protocol
        protocol.core.watch(is_watched=self._is_watched)
        protocol.core.want_sound(is_wanted=self._wants_sound)
        late = loop.call_later(
            HANDSHAKE_TIMEOUT, protocol.fail, "QEMU's VNC server does not answer"
        )
        try:
            self._late = late
            await protocol.ended
        finally:
            late.cancel()
            protocol.close()
            was_there, self.is_there = self.is_there, False
            self._protocol, self.cursor, self.size = None, None, None
            self._poke()
            if was_there:
                self._switched()
        if protocol.is_wrong:
            self._note(protocol.problem, logging.WARNING)
        else:
            self._note(protocol.problem or "QEMU ended the connection to its screen")
        return was_there and not protocol.is_wrong

    def _handle(self, event: rfb.Event) -> None:
        match event:
            case rfb.Connected():
                self._late.cancel()
                self.size = event.width, event.height
                self.is_there, self.problem = True, ""
                self._can_resize = True
                log.info("screen %d: %dx%d", self._head, event.width, event.height)
                if self._head:  # a card's further heads are off until they are wanted
                    assert self._protocol is not None
                    self._protocol.core.resize(*SIZE)
                self._switched()
                self._poke()
                self.heard(event)
            case rfb.Resized():
                self.size = event.width, event.height
                self.watcher.changed()
            case rfb.SizeRefused():
                log.info("screen %d: its card keeps its size", self._head)
                self._can_resize = False
            case rfb.Damaged():
                self._note_life()
                self.watcher.damaged(event.rectangles)
            case rfb.CursorChanged():
                shape = event.cursor
                pixels = straight_alpha(shape.pixels)
                self.cursor = Cursor(shape.x, shape.y, pixels)
                self.watcher.cursor_changed()
            case rfb.LedsChanged():
                self.watcher.leds_changed(event.leds)
            case rfb.PointerModeChanged():
                # with tablets of their own it says no, and means the mouse
                self.is_absolute = event.is_absolute or self._access.has_tablets
            case _:
                self.heard(event)

    # ----------------------------------------------------------------- poke ----

    def _note_life(self) -> None:
        """Something happened: what follows should be seen at once."""
        loop = asyncio.get_running_loop()
        rested = loop.time() - self._happened > RESTS_AFTER
        self._happened = loop.time()
        if rested:
            self._poke()

    def _poke(self) -> None:
        """Let QEMU look for changes, again and again while somebody watches."""
        if self._poking is not None:
            self._poking.cancel()
            self._poking = None
        if self._protocol is None or not (self.is_there and self._is_watched):
            return
        if not self._protocol.is_full:
            self._protocol.core.poke()
            self._protocol.flush()
        loop = asyncio.get_running_loop()
        rests = loop.time() - self._happened > RESTS_AFTER
        self._poking = loop.call_later(REST_POKE if rests else POKE, self._poke)


class _Protocol(asyncio.Protocol):
    """One connection.

    Attributes:
        ended: done when the connection is over.
        problem: why, if we ended it.
        is_wrong: QEMU broke a rule of the protocol.
        is_full: QEMU does not read what it is sent.
    """

    def __init__(self, handle: Callable[[rfb.Event], None]) -> None:
        self.core = RfbClient()
        self._handle = handle
        self._transport: asyncio.Transport | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self.problem = ""
        self.is_wrong = self.is_full = False
        self._is_paused = False  # in reading
        self._turn: asyncio.Handle | None = None  # the next one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no such
        self._transport.set_write_buffer_limits(MAX_UNREAD)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)

    def data_received(self, data: bytes) -> None:
        if self.problem:
            return
        try:
            self.core.receive_data(data)
        except RemoteProtocolError as error:
            self.is_wrong = True
            self.fail(f"QEMU's VNC server breaks the protocol: {error}")
        except RusbError as error:
            self.fail(str(error))
        for event in self.core.events():
            self._handle(event)
        self.flush()
        self._pause_or_read()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        self.is_full = True
        self._pause_or_read()

    def resume_writing(self) -> None:
        self.is_full = False
        self._pause_or_read()

    def _pause_or_read(self) -> None:
        """Read on, at once or in the next turn, unless QEMU does not read."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.core.has_more and not self.is_full and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_on)
        is_paused = self.core.has_more or self.is_full
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            if is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _go_on(self) -> None:
        self._turn = None
        if self._transport is not None and not self._transport.is_closing():
            self.data_received(b"")

    def flush(self) -> None:
        """Send what there is to send."""
        data = self.core.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def fail(self, problem: str) -> None:
        """End the connection because of a problem."""
        self.problem = self.problem or problem
        self.close()

    def close(self) -> None:
        """End the connection. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
