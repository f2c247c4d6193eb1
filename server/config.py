"""What a server does: for which machine, with which guest, on which ports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .vbox.settings import Machine

__all__ = ["ServerConfig"]


@dataclass(slots=True)
class ServerConfig:
    """Everything that :func:`rusb.server.serve` needs to know.

    Attributes:
        machine: settings of the virtual machine: name, filters, remote display.
        guest: where devices go, ``KIND`` or ``KIND:ADDRESS``.
        ports: ports to try, in this order; 0 lets the system choose; None: those of
            the machine's property ``TCP/Ports``.
        address: host name or address to listen on; None: that of ``TCP/Address``,
            or all.
        auth_library: the installation's library for machines of type External that
            name none; empty: VBoxAuth, which is PAM.
        pam_service: of ``/etc/pam.d``; empty: as the environment says, else login.
        wires: names of the wire protocols that a client may bring its devices over. The
            first whose channel opens is taken: static ones in the client's order,
            then dynamic ones in this order.
        legacy_tls: take clients that know nothing newer than TLS 1.0.
        log: path of ``VBox.log``; None: standard error.
        is_bare: the machine only has a name: its filters are options of ``rusb serve``.
        state: folder of the self-made certificate; None: the user's state folder.
    """

    machine: Machine
    guest: str = "pyusb"
    ports: Sequence[int] | None = None
    address: str | None = None
    auth_library: str = ""
    pam_service: str = ""
    wires: tuple[str, ...] = ("vrdpusb", "rdpeusb")
    legacy_tls: bool = False
    log: Path | str | None = None
    is_bare: bool = False
    state: Path | str | None = None
