"""What the channels of sound and of the clipboard ask of a guest, and of a session."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["GuestMedia", "Line"]


class GuestMedia(Protocol):
    """The guest's sound and clipboard.

    What it says comes as events of :mod:`rusb.rfb.events`.
    """

    def want_sound(self, *, is_wanted: bool) -> None:
        """Let it send what it plays, or stop it."""

    def offer_text(self, *, has_text: bool) -> None:
        """Tell it that our clipboard has text, or has none."""

    def request_text(self) -> None:
        """Ask for the text of its clipboard."""

    def provide_text(self, text: str) -> None:
        """Send it the text that it asked for."""


class Send(Protocol):
    """Sends messages on a channel, in this order; those that are urgent go first."""

    def __call__(
        self, channel: int, messages: Sequence[bytes], *, is_urgent: bool
    ) -> None: ...


def _forget(channel: int, messages: Sequence[bytes], *, is_urgent: bool) -> None:
    """Send nothing any more."""


@dataclass(slots=True)
class Line:
    """What a channel has of the session that it belongs to.

    Attributes:
        send: sends messages.
        waiting: returns the bytes that wait for the client.
        note: tells what is wrong with a channel, of a name.
        agreed: tells that the client plays sound, of so many frames a second.
    """

    send: Send
    waiting: Callable[[], int]
    note: Callable[[str, str], None]
    agreed: Callable[[int], None]

    def cut(self) -> None:
        """The session is over, and is not to live as long as this."""
        self.send, self.waiting = _forget, lambda: 0
        self.note, self.agreed = lambda name, problem: None, lambda rate: None
