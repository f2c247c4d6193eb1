"""The end with the guest."""

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Any

    from .config import ServerConfig
    from .guests.base import AttachedDevice, GuestBackend
    from .server import Server
    from .server import Server as serve
    from .vbox.settings import Machine, load_machine

__all__ = [
    "AttachedDevice",
    "GuestBackend",
    "Machine",
    "Server",
    "ServerConfig",
    "load_machine",
    "serve",
]

_HOMES = {
    "AttachedDevice": "guests.base",
    "GuestBackend": "guests.base",
    "Machine": "vbox.settings",
    "Server": "server",
    "ServerConfig": "config",
    "load_machine": "vbox.settings",
    "serve": "server",
}


def __getattr__(name: str) -> "Any":
    """Import what is asked for: who only reads settings needs no RDP.

    ``async with serve(config) as server:`` serves while the block runs.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module.Server if name == "serve" else getattr(module, name)


def __dir__() -> list[str]:
    """Name what can be asked for, too: for ``help()`` and completion."""
    return sorted({*globals(), *__all__})
