"""The contract of a hypervisor: QEMU is one, and another one runs a machine, too."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rusb.errors import ControlError, GuestError
from rusb.server.guests.base import GuestBackend
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.machine.command_line import qemu_command
from rusb.server.machine.control import call, control_path
from rusb.server.machine.process import Hypervisor
from rusb.server.machine.running import RunningMachine
from rusb.server.state import MachineState
from rusb.server.vbox.model import Hardware
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.running import UUID


class Elsewhere(Hypervisor):
    """Runs a machine that somebody else has: notes what it is asked."""

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        log: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.guests: list[str] = []
        self.ended = ended
        self.is_on = self.is_end_expected = False
        self.state = "running"

    async def start(self, *, incoming: str = "") -> None:
        self.is_on = True
        self.notes.append("it is in another directory")

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        if not self.is_on:
            raise ControlError("the machine is powering off")
        self.asked.append(command)
        if not self.state:
            raise GuestError("no answer")
        return {"status": self.state}

    def guest(self, use: str) -> GuestBackend:
        self.guests.append(use)
        return LoopbackGuest()

    def expect_end(self) -> None:
        self.is_end_expected = True

    async def stop(self) -> None:
        self.is_on = False


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RUSB_RUNTIME", folder)
        yield Path(folder)


@contextlib.asynccontextmanager
async def running(folder: Path, said: list[str]):  # type: ignore[no-untyped-def]
    display = RemoteDisplay(
        True, properties={"TCP/Ports": "44000-44999", "TCP/Address": "127.0.0.1"}
    )
    machine = Machine("Far", UUID, usb_controllers=("XHCI",), remote_display=display)
    made = RunningMachine(
        machine,
        Hardware(),
        log=str(folder / "VBox.log"),
        report=said.append,
        state=folder,
        hypervisor=Elsewhere,
    )
    async with asyncio.timeout(20), made:
        hypervisor = made._hypervisor
        assert isinstance(hypervisor, Elsewhere)
        yield made, hypervisor
    assert not hypervisor.is_on


async def info() -> MachineState:
    return MachineState.from_json(await call(control_path(UUID), "info"))


async def test_a_machine_of_another_hypervisor_runs(tmp_path: Path) -> None:
    said: list[str] = []
    async with running(tmp_path, said) as (machine, hypervisor):
        assert hypervisor.is_on
        assert hypervisor.guests == ["usb"]
        assert "Warning: it is in another directory" in said
        assert (await info()).state == "running"
        await call(control_path(UUID), "pause")
        assert hypervisor.asked[-1] == "stop"
        hypervisor.state = ""
        assert (await info()).state == "stuck"
        await call(control_path(UUID), "poweroff")
        await machine.wait_ended()
        assert hypervisor.is_end_expected
        assert machine.failure == ""


async def test_its_end_ends_the_machine(tmp_path: Path) -> None:
    async with running(tmp_path, []) as (machine, hypervisor):
        hypervisor.failure = "it was unplugged"
        hypervisor.ended()
        await machine.wait_ended()
        assert machine.failure == "it was unplugged"


def test_qemu_waits_for_a_state_that_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    assert "-incoming" not in qemu_command("Lab", UUID, Hardware(), [])
    command = qemu_command("Lab", UUID, Hardware(), [], incoming="unix:/run/x")
    assert command[-2:] == ["-incoming", "unix:/run/x"]
