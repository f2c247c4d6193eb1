"""Type *guest*: refused, for rusb has no Guest Additions to ask."""

from .base import Decision, Request

__all__ = ["Guest"]


class Guest:
    """Denies: judgement 4, the guest did not react (vrdp-server.md 3.2)."""

    name = "Guest"
    library = ""

    def problem(self) -> str:
        """Nobody can."""
        return (
            "the authentication type Guest needs Guest Additions in the guest, which"
            " rusb does not have, so nobody can log on; use the type external"
        )

    async def check(self, request: Request) -> Decision:
        """Deny."""
        return Decision(
            False,
            "AUTH: the guest cannot be asked (judgement 4); use the authentication"
            " type external",
        )

    def disconnected(self, client_id: int) -> None:
        """Nothing to do."""
