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

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Compare; the domain and what precedes a backslash are ignored."""
        before, backslash, after = request.user.partition("\\")
        stored = self._extra_data.get(PREFIX + (after if backslash else before), "")
        is_right = verify(stored, request.password)
        return Result.GRANTED if is_right and stored else Result.DENIED

    def logoff(self, client_id: int) -> None:
        """Nothing to do."""
