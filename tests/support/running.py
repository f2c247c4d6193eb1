"""A machine without a window."""

import asyncio
from pathlib import Path

from rusb.filters.model import Filter
from rusb.server.machine.running import RunningMachine
from rusb.server.vbox.model import Hardware
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.rusbserver import free_port

UUID = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a705"


def make(
    folder: Path,
    said: list[str],
    hardware: Hardware | None = None,
    *,
    monitors: int = 1,
    **display: object,
) -> RunningMachine:
    settings: dict[str, object] = {"enabled": True, "properties": {"TCP/Ports": "0"}}
    machine = Machine(
        name="Small",
        uuid=UUID,
        filters=(Filter(name="all"),),
        monitors=monitors,
        usb_controllers=("OHCI", "EHCI"),  # as most machines of VirtualBox have
        remote_display=RemoteDisplay(**(settings | display)),  # type: ignore[arg-type]
    )
    machine.remote_display.properties["TCP/Ports"] = str(free_port())
    machine.remote_display.properties["TCP/Address"] = "127.0.0.1"
    return RunningMachine(
        machine,
        hardware or Hardware(memory=64, usb=machine.usb_controllers),
        log=str(folder / "VBox.log"),
        report=said.append,
        state=folder,
    )


async def wait_log(folder: Path, text: str) -> None:
    while text not in (folder / "VBox.log").read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
