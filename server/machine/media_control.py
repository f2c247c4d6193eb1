"""Sound and clipboard of a machine that runs: what ``controlvm`` changes of them.

It counts for this run; the settings stay as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rusb.errors import ControlError

from ..vbox.settings import CLIPBOARD_MODES, Machine
from .control import Command

__all__ = ["media_commands"]


def media_commands(machine: Machine, changed: Callable[[], None]) -> dict[str, Command]:
    """Return what can be asked over the control socket, by name.

    Args:
        machine: is changed.
        changed: lets it count.
    """

    async def audioout(arguments: Mapping[str, Any]) -> None:
        machine.has_sound = bool(arguments["enabled"])
        changed()

    async def clipboard(arguments: Mapping[str, Any]) -> None:
        mode = arguments["mode"]
        if mode not in CLIPBOARD_MODES:
            raise ControlError(
                f"invalid clipboard mode {mode!r}; choose one of"
                f" {', '.join(CLIPBOARD_MODES)}"
            )
        machine.clipboard = mode
        changed()

    return {"audioout": audioout, "clipboard": clipboard}
