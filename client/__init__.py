"""The end with the devices."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice

    from .config import ClientConfig
    from .devices import Standing, load_backend
    from .events import SessionEvent
    from .session import ClientSession, SessionDevice, connect

__all__ = [
    "ClientConfig",
    "ClientSession",
    "DeviceBackend",
    "LocalDevice",
    "OpenDevice",
    "SessionDevice",
    "SessionEvent",
    "Standing",
    "connect",
    "load_backend",
]

_HOMES = {
    "ClientConfig": ".config",
    "ClientSession": ".session",
    "DeviceBackend": "rusb.usb.backend",
    "LocalDevice": "rusb.usb.backend",
    "OpenDevice": "rusb.usb.backend",
    "SessionDevice": ".session",
    "SessionEvent": ".events",
    "Standing": ".devices",
    "connect": ".session",
    "load_backend": ".devices",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: who only lists devices needs no RDP."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    """Name what can be asked for, too: for ``help()`` and completion."""
    return sorted({*globals(), *__all__})
