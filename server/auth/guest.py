"""Type *guest*: refused, for rusb has no Guest Additions to ask."""

from .base import Decision, Request

__all__ = ["Guest"]


class Guest:
    """Denies: judgement 4, the guest did not react (vrdp-server.md 3.2)."""

    name = "Guest"
    library = ""

    async def check(self, request: Request) -> Decision:
        """Deny."""
        return Decision(
            False,
            "AUTH: the guest cannot be asked (judgement 4); use the authentication"
            " type external",
        )

    def disconnected(self, client_id: int) -> None:
        """Nothing to do."""
