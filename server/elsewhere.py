"""Where a machine runs that has left this host (docs/spec/teleport.md, 8)."""

from dataclasses import dataclass

from rusb.rdp.rusbext import Staying

__all__ = ["Elsewhere", "Reason"]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The remote display that the machine has now.

    Attributes:
        host: an address or a name.
        port: 0: it has none.
        certificate: SHA-256 of what its server shows; empty: it does no TLS.
    """

    host: str
    port: int
    certificate: bytes = b""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a client's devices do not go there.

    Attributes:
        text: for a log.
        code: for the client, one of :class:`rusb.rdp.rusbext.Staying`.
        device: because of this one, by its client's id; 0: of none.
    """

    text: str
    code: int = Staying.OTHER
    device: int = 0
