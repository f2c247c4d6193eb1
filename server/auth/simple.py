"""``VBoxAuthSimple``: users in the machine's extra data (vrdp-server.md 3.5)."""

from collections.abc import Mapping

from .base import Judgement, Request, Result
from .hashes import verify

__all__ = ["PREFIX", "Simple"]

PREFIX = "VBoxAuthSimple/users/"


class Simple:
    """Compares with the hash under ``VBoxAuthSimple/users/NAME``."""

    title = "VBoxAuthSimple"

    def __init__(self, extra_data: Mapping[str, str]) -> None:
        self._extra_data = extra_data

    def problem(self) -> str:
        """Say that nobody has a hash."""
        if any(key.startswith(PREFIX) for key in self._extra_data):
            return ""
        return (
            "VBoxAuthSimple knows no user, so nobody can log on; add one: setextradata"
            f" VM {PREFIX}NAME HASH ('rusb passwordhash' makes the hash)"
        )

    def who(self, request: Request) -> str:
        """Return the user, for whom the domain and what precedes a backslash count for
        nothing."""
        before, backslash, after = request.user.partition("\\")
        return after if backslash else before

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Compare; an unknown user costs the time of a known one."""
        stored = self._extra_data.get(PREFIX + self.who(request), "")
        is_right = verify(stored, request.password)  # nothing has an empty hash
        return Result.GRANTED if is_right else Result.DENIED

    def logoff(self, client_id: int) -> None:
        """Nothing to do."""
