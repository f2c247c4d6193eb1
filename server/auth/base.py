"""What every method of authentication gets and answers (vrdp-server.md part 3)."""

import enum
import unicodedata
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "ACCESS_DENIED",
    "ACCESS_GRANTED",
    "Authenticator",
    "Decision",
    "Judgement",
    "Library",
    "Request",
    "Result",
    "asked_lines",
    "decision_line",
    "plain_name",
]

ACCESS_GRANTED = "AUTH: Access granted."
ACCESS_DENIED = "AUTH: Access denied."


class Result(enum.IntEnum):
    """What a library answers (3.3)."""

    DENIED = 0
    GRANTED = 1
    DELEGATE = 2


class Judgement(enum.IntEnum):
    """What the guest says of the credentials (3.3)."""

    NOT_ASKED = 0
    DENIED = 1
    NONE = 2
    GRANTED = 3
    NOT_REACTED = 4


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants in.

    Attributes:
        user, domain: as the client sent them, the domain without its ``@N``.
        password: never shown by ``repr``.
        client_name: what the client calls itself.
        address: the peer of the TCP connection, not what the client claims.
        client_id: the server's number of the connection.
    """

    user: str
    domain: str
    password: str = field(repr=False)
    client_name: str = ""
    address: str = ""
    client_id: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer; *reason* is for the log alone and never holds a password."""

    granted: bool
    reason: str


class Authenticator(Protocol):
    """Decides on logons."""

    @property
    def name(self) -> str:
        """The type as the log names it: Null, External or Guest."""

    @property
    def library(self) -> str:
        """The library as the log names it; empty: there is none to ask."""

    def problem(self) -> str:
        """Say why users cannot log on who should; empty: nothing is known of that."""

    async def check(self, request: Request) -> Decision:
        """Decide; raises nothing, an error is a refusal."""

    def disconnected(self, client_id: int) -> None:
        """A client is gone; harmless for one that was never granted."""


class Library(Protocol):
    """An external library; but for *who* it is called in a thread and may block."""

    @property
    def title(self) -> str:
        """Its name, and what it is called by."""

    def problem(self) -> str:
        """Say why users cannot log on who should; empty: nothing is known of that."""

    def who(self, request: Request) -> str:
        """Return the user whose password is tried: the same for all names that
        :meth:`logon` takes for one, for guesses are counted by it. Does not block."""

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Return a :class:`Result`; anything else, and any exception, denies."""

    def logoff(self, client_id: int) -> None:
        """A client that had been granted access is gone."""


def plain_name(user: str) -> str:
    """Return what any spelling of a user comes to: no domain before or after it, no
    blanks, no capitals. For libraries of which nobody knows what they compare."""
    name = unicodedata.normalize("NFKC", user).rpartition("\\")[2]
    return name.partition("@")[0].strip().casefold()


def asked_lines(method: Authenticator, request: Request) -> list[str]:
    """Return the log's lines before a check (7.3, lines 12 and 13)."""
    lines = [
        f"AUTH: User: [{request.user}]. Domain: [{request.domain}]."
        f" Authentication type: [{method.name}]"
    ]
    if method.library:
        lines.append(f"AUTH: Library: [{method.library}].")
    return lines


def decision_line(decision: Decision) -> str:
    """Return the log's line after a check (7.3, line 15)."""
    return ACCESS_GRANTED if decision.granted else ACCESS_DENIED
