"""Storage of a machine, in few words."""

from typing import Any

from rusb.server.vbox.model import BUSES, Controller, Drive


def controllers(*drives: tuple[Any, ...]) -> list[Controller]:
    """A controller for each drive: its bus, then what ``Drive`` takes."""
    return [
        Controller(f"c{number}", BUSES[bus][0], BUSES[bus][1], [Drive(*drive)])
        for number, (bus, *drive) in enumerate(drives)
    ]
