"""The end with the guest."""

from .config import ServerConfig
from .guests.base import AttachedDevice, GuestBackend
from .listener import Server

__all__ = ["AttachedDevice", "GuestBackend", "Server", "ServerConfig", "serve"]

serve = Server
"""``async with serve(config) as server:`` serves while the block runs."""
