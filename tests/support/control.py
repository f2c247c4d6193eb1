"""A control socket with two commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rusb.errors import GuestError
from rusb.server.event_log import EventLog
from rusb.server.machine.control import (
    ControlServer,
)
from rusb.server.vbox.lock import (
    MachineLock,
)


async def double(arguments: Mapping[str, Any]) -> object:
    return {"twice": 2 * arguments["number"]}


async def refuse(arguments: Mapping[str, Any]) -> object:
    raise GuestError("the guest does not listen")


COMMANDS = {"double": double, "refuse": refuse}


def make(path: Path) -> ControlServer:
    """A server at a path, with its lock beside it."""
    lock = MachineLock(path.with_suffix(".lock"))
    return ControlServer(lambda: path, COMMANDS, lock, EventLog("Lab"))
