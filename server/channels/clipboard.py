"""The clipboard: text between the guest and its viewers (display.md 8).

It belongs to the one that copied last, the guest or one viewer. Texts travel when
somebody pastes; what one viewer copies no other one gets.
"""

import asyncio
import enum

from rusb.rdp.channels import ChannelHandler
from rusb.rdp.cliprdr import (
    ClipboardNoted,
    ClipboardServer,
    TextOffered,
    TextReceived,
    TextWanted,
)
from rusb.rfb import events as rfb

from .base import GuestMedia, Line

__all__ = ["CLIPRDR", "ClipboardChannel", "ClipboardMode", "GuestClipboard"]

CLIPRDR = "cliprdr"

PATIENCE = 5.0
"""Seconds that the guest may take for its text."""

OFFER_PERIOD = 0.05
"""Seconds between two notices to the guest that there is a new text."""

MAX_WAITING = 4 << 20
"""Bytes that wait for a client above which it gets no text: it asks, and reads
nothing."""


class ClipboardMode(enum.Enum):
    """Which way texts go: the words of ``--clipboard-mode``."""

    DISABLED = "disabled"
    TO_GUEST = "hosttoguest"
    TO_VIEWERS = "guesttohost"
    BOTH = "bidirectional"

    @property
    def is_to_guest(self) -> bool:
        """Does the guest get what viewers copy?"""
        return self in (ClipboardMode.TO_GUEST, ClipboardMode.BOTH)

    @property
    def is_to_viewers(self) -> bool:
        """Do viewers get what the guest copies?"""
        return self in (ClipboardMode.TO_VIEWERS, ClipboardMode.BOTH)


class GuestClipboard:
    """The clipboard that the guest shares with its viewers.

    Args:
        guest: the other end.

    Attributes:
        mode: which way texts go.
    """

    def __init__(self, guest: GuestMedia) -> None:
        self.mode = ClipboardMode.DISABLED
        self._guest = guest
        self._viewers: set[ClipboardChannel] = set()
        self._owner: ClipboardChannel | None = None
        self._has_text = False  # the guest does
        self._text: str | None = None  # the guest's, once it was asked for
        self._waiting: list[ClipboardChannel] = []
        self._asked: asyncio.TimerHandle | None = None
        self._is_stale = False  # what was asked for is not the latest
        self._offering: asyncio.TimerHandle | None = None
        self._is_due = False  # the guest is to be told something else

    def switch(self, mode: ClipboardMode) -> None:
        """Let texts go other ways."""
        self.mode = mode
        for viewer in list(self._viewers):
            viewer.reconsider()

    def aclose(self) -> None:
        """Wait for nothing more. Idempotent."""
        for timer in (self._asked, self._offering):
            if timer is not None:
                timer.cancel()

    # --------------------------------------------------------- of the guest ----

    def handle(self, event: rfb.Event) -> None:
        """Something happens to the guest's clipboard."""
        match event:
            case rfb.Connected():  # another connection, which knows of nothing
                self._set_guests(has_text=False)
                if self._owner is not None:
                    self._guest.offer_text(has_text=True)
            case rfb.ClipboardNoticed(has_text):
                self._owner = None
                self._set_guests(has_text=has_text)
            case rfb.ClipboardRequested():
                if self._owner is not None:
                    self._owner.request()
                else:
                    self._guest.provide_text("")
            case rfb.ClipboardProvided(text):
                self._answer(text)
            case rfb.ClipboardTooLong(size):
                for viewer in self._waiting:
                    viewer.note(f"asked for the guest's text, which has {size} bytes")
                self._answer(None)

    def _set_guests(self, *, has_text: bool) -> None:
        self._has_text, self._text = has_text, None
        self._is_stale = self._asked is not None
        for viewer in list(self._viewers):
            viewer.offer(has_text=has_text)

    def _answer(self, text: str | None) -> None:
        if self._asked is None:  # nobody asked, or it is too late
            return
        self._asked.cancel()
        self._asked = None
        if not self._is_stale:
            self._text = text
        waiting, self._waiting = self._waiting, []
        for viewer in waiting:
            viewer.provide(text)

    # -------------------------------------------------------- of the viewers ----

    @property
    def has_text(self) -> bool:
        """Has the guest text for viewers?"""
        return self._has_text

    @property
    def is_free(self) -> bool:
        """Has nobody copied a text?"""
        return self._owner is None and not self._has_text

    def add(self, viewer: "ClipboardChannel") -> None:
        """Somebody else takes part."""
        self._viewers.add(viewer)

    def discard(self, viewer: "ClipboardChannel") -> None:
        """Somebody left. Idempotent."""
        self._viewers.discard(viewer)
        self.disown(viewer)

    def own(self, viewer: "ClipboardChannel") -> None:
        """Somebody copied a text, and may give it to the guest."""
        self._owner = viewer
        if self._has_text:
            self._set_guests(has_text=False)
        self._offer()

    def disown(self, viewer: "ClipboardChannel") -> None:
        """Its text, if it is the latest, is gone."""
        if self._owner is viewer:
            self._owner = None
            self._offer()

    def ask(self, viewer: "ClipboardChannel") -> None:
        """Somebody pastes the guest's text."""
        if not self._has_text or self._text is not None:
            viewer.provide(self._text)
            return
        self._waiting.append(viewer)
        if self._asked is None:
            self._is_stale = False
            loop = asyncio.get_running_loop()
            self._asked = loop.call_later(PATIENCE, self._answer, None)
            self._guest.request_text()

    def received(self, text: str | None) -> None:
        """The guest pastes a viewer's text; None: there is none."""
        self._guest.provide_text(text or "")

    def _offer(self) -> None:
        """Tell the guest whether there is text; not more often than it can read."""
        if self._offering is None:
            self._guest.offer_text(has_text=self._owner is not None)
            loop = asyncio.get_running_loop()
            self._offering = loop.call_later(OFFER_PERIOD, self._offered)
        else:
            self._is_due = True

    def _offered(self) -> None:
        self._offering = None
        if self._is_due:
            self._is_due = False
            self._offer()


class ClipboardChannel(ChannelHandler):
    """The channel of one client.

    Args:
        clipboard: the guest's.
        line: to the client.
    """

    def __init__(self, clipboard: GuestClipboard, line: Line) -> None:
        self._clipboard = clipboard
        self._line = line
        self._core = ClipboardServer()
        self._channel: int | None = None
        self._is_on = True
        self._has_text = False
        self._timer: asyncio.TimerHandle | None = None
        self._told = ClipboardMode.DISABLED

    # ------------------------------------------------------- of the channel ----

    def opened(self, channel: int, name: str) -> "ClipboardChannel":
        """The client has the channel."""
        self._channel = channel
        self._clipboard.add(self)
        self.reconsider()
        return self

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of the client."""
        self._core.receive_data(data, now=self._now())
        self._flush()

    def closed(self, channel: int) -> None:
        """The connection is over."""
        self._channel = None
        self._clipboard.discard(self)
        self._set_timer()

    def too_long(self, size: int) -> None:
        """A message was skipped."""
        self._core.too_long(size)
        self._flush()

    # --------------------------------------------------------- of the guest ----

    @property
    def mode(self) -> ClipboardMode:
        """Which way texts go between the guest and this client."""
        is_there = self._is_on and self._channel is not None
        return self._clipboard.mode if is_there else ClipboardMode.DISABLED

    @property
    def is_to_guest(self) -> bool:
        """Does the guest get what the client copies?"""
        return self.mode.is_to_guest

    def state(self) -> str:
        """The word of the mode, for a client that takes part."""
        mode = self.mode if self._core.is_in_step else ClipboardMode.DISABLED
        return mode.value

    def switch(self, *, is_on: bool) -> None:
        """Let the client share the clipboard, or not (``Client/DisableClipboard``)."""
        self._is_on = is_on
        self.reconsider()

    def reconsider(self) -> None:
        """The mode may be another one."""
        mode, before = self.mode, self._told
        self._told = mode
        if mode is before or self._channel is None:
            return
        self._core.start()
        if mode.is_to_guest and self._has_text and self._clipboard.is_free:
            self._clipboard.own(self)
        elif not mode.is_to_guest:
            self._clipboard.disown(self)
        if mode.is_to_viewers != before.is_to_viewers and self._clipboard.has_text:
            self._core.offer(has_text=mode.is_to_viewers, now=self._now())
        self._flush()

    def offer(self, *, has_text: bool) -> None:
        """The guest copied something."""
        if self.mode.is_to_viewers:
            self._core.offer(has_text=has_text, now=self._now())
            self._flush()

    def request(self) -> None:
        """The guest pastes."""
        self._core.request(now=self._now())
        self._flush()

    def provide(self, text: str | None) -> None:
        """The guest's text, which the client asked for."""
        is_allowed = self.mode.is_to_viewers
        if self._line.waiting() > MAX_WAITING or not is_allowed:
            text = None
        self._core.provide(text)
        self._flush()

    def note(self, problem: str) -> None:
        """Something is wrong."""
        self._line.note(CLIPRDR, problem)

    def _flush(self) -> None:
        while events := self._core.events():
            for event in events:
                self._handle(event)
        if self._channel is not None and (messages := self._core.outputs()):
            self._line.send(self._channel, messages, is_urgent=False)
        self._set_timer()

    def _handle(
        self, event: TextOffered | TextWanted | TextReceived | ClipboardNoted
    ) -> None:
        match event:
            case TextOffered(has_text, is_echo) if not is_echo:
                self._has_text = has_text
                if has_text and self.is_to_guest:
                    self._clipboard.own(self)
                else:
                    self._clipboard.disown(self)
            case TextWanted():
                if self.mode.is_to_viewers:
                    self._clipboard.ask(self)
                else:
                    self._core.provide(None)
            case TextReceived(text):
                self._clipboard.received(text if self.is_to_guest else None)
            case ClipboardNoted(problem):
                self.note(problem)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._core.next_deadline()
        if due is not None and self._channel is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        self._core.handle_deadline(self._now())
        self._flush()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
