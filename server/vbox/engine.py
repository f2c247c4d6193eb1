"""What runs a machine: words of extra data and options."""

import enum
from collections.abc import Mapping

from rusb.errors import SettingsError

from .own_keys import machine_key

__all__ = ["ENGINE_KEY", "Engine", "find_engine"]

ENGINE_KEY = machine_key("Engine")


class Engine(enum.Enum):
    """What runs it, by what users call it."""

    QEMU = "qemu"
    """QEMU, as a process of ours."""
    LIBVIRT = "libvirt"
    """QEMU, as a domain of libvirt."""


def find_engine(extra_data: Mapping[str, str]) -> Engine:
    """Return what runs a machine with these extra data.

    Raises:
        SettingsError: nothing that we know.
    """
    text = extra_data.get(ENGINE_KEY) or Engine.QEMU.value
    try:
        return Engine(text)
    except ValueError:
        known = ", ".join(engine.value for engine in Engine)
        raise SettingsError(
            f"extra data {ENGINE_KEY}: {text!r} is invalid; choose one of {known}"
        ) from None
