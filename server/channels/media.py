"""Sound and clipboard of a guest, and the two channels that a client has for them."""

from collections.abc import Collection, Iterator

from rusb.rdp import cliprdr, rdpsnd
from rusb.rdp.channels import ChannelLimits, ChannelListener
from rusb.rfb import events as rfb

from ..vbox.settings import Machine
from .audio import RDPSND, AudioChannel, GuestSound
from .base import GuestMedia, Line
from .clipboard import CLIPRDR, ClipboardChannel, ClipboardMode, GuestClipboard

__all__ = ["ClientMedia", "Media"]


class Media:
    """What the guest plays, and the clipboard that it shares.

    Args:
        guest: the other end.
        machine: whose settings count.

    Attributes:
        sound, clipboard: the two.
    """

    def __init__(self, guest: GuestMedia, machine: Machine) -> None:
        self._machine = machine
        self.sound = GuestSound(guest)
        self.clipboard = GuestClipboard(guest)
        self.reconsider()

    def reconsider(self) -> None:
        """The machine's settings may be others."""
        self.sound.switch(is_on=self._machine.has_sound)
        self.clipboard.switch(ClipboardMode(self._machine.clipboard))

    def handle(self, event: rfb.Event) -> None:
        """Something happens to the guest's sound, or to its clipboard."""
        self.sound.handle(event)
        self.clipboard.handle(event)

    def aclose(self) -> None:
        """Wait for nothing more. Idempotent."""
        self.sound.aclose()
        self.clipboard.aclose()


class ClientMedia:
    """The channels of one client.

    Args:
        media: the guest's.
        line: to the client.

    Attributes:
        audio, clipboard: the two.
    """

    def __init__(self, media: Media, line: Line) -> None:
        self._line = line
        self.audio = AudioChannel(media.sound, line)
        self.clipboard = ClipboardChannel(media.clipboard, line)

    def listeners(self) -> Iterator[ChannelListener]:
        """Yield who serves the channels."""
        yield ChannelListener(
            *(RDPSND, self.audio.opened),
            limits=ChannelLimits(rdpsnd.MAX_MESSAGE),
            too_long=self.audio.too_long,
        )
        yield ChannelListener(
            *(CLIPRDR, self.clipboard.opened),
            limits=ChannelLimits(cliprdr.MAX_MESSAGE),
            too_long=self.clipboard.too_long,
        )

    def end(self) -> None:
        """The session is over; what is known of it stays."""
        self._line.cut()

    def switch(self, disabled: Collection[str]) -> None:
        """Obey the switches of the machine (vrdp-server.md 4.4)."""
        self.audio.switch(is_on="Audio" not in disabled)
        self.clipboard.switch(is_on="Clipboard" not in disabled)
