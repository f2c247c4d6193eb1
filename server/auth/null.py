"""Type *null*: everybody is let in (vrdp-server.md 3.2)."""

from .base import Decision, Judgement, Request, Result

__all__ = ["Null", "NullLibrary"]


class Null:
    """Grants."""

    name = "Null"
    library = ""

    def problem(self) -> str:
        """None."""
        return ""

    async def check(self, request: Request) -> Decision:
        """Grant."""
        return Decision(True, "")

    def disconnected(self, client_id: int) -> None:
        """Nothing to do."""


class NullLibrary:
    """The library ``null``: type *external* with the check switched off."""

    title = "null"

    def problem(self) -> str:
        """None."""
        return ""

    def who(self, request: Request) -> str:
        """Return the user as given: nobody has a password to guess."""
        return request.user

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Grant."""
        return Result.GRANTED

    def logoff(self, client_id: int) -> None:
        """Nothing to do."""
