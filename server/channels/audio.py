"""Sound: what the guest plays, to every viewer that plays it (display.md 7)."""

import asyncio

from rusb.rdp.channels import ChannelHandler
from rusb.rdp.rdpsnd import SoundAgreed, SoundNoted, SoundServer
from rusb.rfb import events as rfb

from ..state import SoundState
from .base import GuestMedia, Line

__all__ = ["RDPSND", "AudioChannel", "GuestSound"]

RDPSND = "rdpsnd"

CLOSES_AFTER = 5.0
"""Seconds of silence after which clients close their devices."""


class GuestSound:
    """The guest's sound, which it only sends while somebody listens.

    Args:
        guest: where it comes from.

    Attributes:
        is_on: may it be heard?
    """

    def __init__(self, guest: GuestMedia) -> None:
        self._guest = guest
        self._listeners: set[AudioChannel] = set()
        self.is_on = True
        self._is_wanted = False
        self._closing: asyncio.TimerHandle | None = None

    def switch(self, *, is_on: bool) -> None:
        """Let clients hear the guest, or not (``--audio-out``)."""
        if is_on != self.is_on:
            self.is_on = is_on
            self._ask()
            if not is_on:
                self._close()

    def add(self, listener: "AudioChannel") -> None:
        """Somebody listens."""
        self._listeners.add(listener)
        self._ask()

    def discard(self, listener: "AudioChannel") -> None:
        """Somebody listens no more. Idempotent."""
        self._listeners.discard(listener)
        self._ask()

    def handle(self, event: rfb.Event) -> None:
        """Something happens to the guest's sound."""
        match event:
            case rfb.SoundStarted():
                self._go_on()
            case rfb.SoundReceived(data) if self._is_wanted:
                self._go_on()
                for listener in list(self._listeners):
                    listener.play(data)
            case rfb.SoundEnded():
                for listener in list(self._listeners):
                    listener.pause()
                self._go_on()
                loop = asyncio.get_running_loop()
                self._closing = loop.call_later(CLOSES_AFTER, self._close)

    def aclose(self) -> None:
        """Wait for nothing more. Idempotent."""
        self._go_on()

    def _ask(self) -> None:
        is_wanted = self.is_on and bool(self._listeners)
        if is_wanted != self._is_wanted:
            self._is_wanted = is_wanted
            self._guest.want_sound(is_wanted=is_wanted)

    def _go_on(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _close(self) -> None:
        self._closing = None
        for listener in list(self._listeners):
            listener.stop()


class AudioChannel(ChannelHandler):
    """The channel of one client.

    Args:
        sound: the guest's.
        line: to the client.
    """

    def __init__(self, sound: GuestSound, line: Line) -> None:
        self._sound = sound
        self._line = line
        self._core = SoundServer()
        self._channel: int | None = None
        self._is_on = True

    # ------------------------------------------------------- of the channel ----

    def opened(self, channel: int, name: str) -> "AudioChannel":
        """The client has the channel."""
        self._channel = channel
        if self._is_on:
            self._core.start()
            self._flush()
        return self

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of the client."""
        self._core.receive_data(data, now=asyncio.get_running_loop().time())
        self._flush()

    def closed(self, channel: int) -> None:
        """The connection is over."""
        self._channel = None
        self._sound.discard(self)

    def too_long(self, size: int) -> None:
        """A message was skipped."""
        self._core.mute(f"sound message of {size} bytes")
        self._flush()

    # --------------------------------------------------------- of the guest ----

    def switch(self, *, is_on: bool) -> None:
        """Let the client hear the guest, or not (``Client/DisableAudio``)."""
        self._is_on = is_on
        if self._channel is None:
            return
        if is_on:
            self._core.start()
        else:
            self._core.stop()
        self._flush()

    def play(self, pcm: bytes) -> None:
        """The guest plays something."""
        self._core.play(pcm, now=asyncio.get_running_loop().time())
        self._flush()

    def pause(self) -> None:
        """The guest plays nothing now."""
        self._core.flush(now=asyncio.get_running_loop().time())
        self._flush()

    def stop(self) -> None:
        """The guest has played nothing for some time."""
        self._core.stop()
        self._flush()

    def state(self) -> SoundState | None:
        """What the client hears; None: nothing."""
        core = self._core
        if not core.rate:
            return None
        return SoundState(core.rate, core.sent, core.dropped)

    def _flush(self) -> None:
        for event in self._core.events():
            match event:
                case SoundAgreed(rate):
                    self._line.agreed(rate)
                case SoundNoted(problem):
                    self._line.note(RDPSND, problem)
        if self._channel is not None and (messages := self._core.outputs()):
            self._line.send(self._channel, messages, is_urgent=True)
        if self._core.is_ready and self._is_on and self._channel is not None:
            self._sound.add(self)
        else:
            self._sound.discard(self)
