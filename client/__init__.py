"""The end with the devices."""

from .backends.base import DeviceBackend, LocalDevice, OpenDevice
from .config import ClientConfig
from .session import ClientSession, connect

__all__ = [
    "ClientConfig",
    "ClientSession",
    "DeviceBackend",
    "LocalDevice",
    "OpenDevice",
    "connect",
]
