"""Who may log on (vrdp-server.md part 3): :func:`choose` picks a machine's method."""

from ..vbox.settings import DEFAULT_AUTH_TIMEOUT, Machine
from .base import (
    ACCESS_DENIED,
    ACCESS_GRANTED,
    Authenticator,
    Decision,
    Library,
    Request,
    asked_lines,
    decision_line,
)
from .external import External
from .guest import Guest
from .limits import Limits
from .module import Module
from .null import Null, NullLibrary
from .pam import Pam
from .simple import Simple

__all__ = [
    "ACCESS_DENIED",
    "ACCESS_GRANTED",
    "Authenticator",
    "Decision",
    "Limits",
    "Request",
    "asked_lines",
    "choose",
    "decision_line",
]

DEFAULT_LIBRARY = "VBoxAuth"


def choose(
    machine: Machine,
    *,
    library: str = "",
    pam_service: str = "",
    limits: Limits | None = None,
) -> Authenticator:
    """Return the method of a machine; keep it as long as the machine runs.

    Args:
        library: the installation's (``vrdeauthlibrary``), if the machine names none.
        pam_service: of ``/etc/pam.d``; empty: the environment's, else ``login``.
        limits: to share between machines.
    """
    display = machine.remote_display
    kind = display.auth_type.lower()
    if kind == "null":
        return Null()
    if kind == "guest":
        return Guest()
    # An unknown type is checked like external: never let in more than was meant.
    names = (display.auth_library, library, DEFAULT_LIBRARY)
    name = next(n for n in names if n and n.lower() != "default")
    timeout = (display.auth_timeout or DEFAULT_AUTH_TIMEOUT) / 1000
    return External(_load(name, machine, pam_service), timeout=timeout, limits=limits)


def _load(name: str, machine: Machine, pam_service: str) -> Library:
    if name in ("VBoxAuth", "VRDPAuth"):
        return Pam(pam_service)
    if name == "VBoxAuthSimple":
        return Simple(machine.extra_data)
    if name.lower() == "null":
        return NullLibrary()
    return Module(name, machine.uuid)
