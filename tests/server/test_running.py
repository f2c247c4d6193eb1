"""A machine without a window: the real QEMU, its BIOS, and our server beside it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import ControlError, GuestError
from rusb.server.machine.command_line import qemu_command
from rusb.server.machine.control import call, control_path
from rusb.server.machine.process import QemuProcess, _accelerators, _kvm_problem
from rusb.server.machine.running import RunningMachine
from rusb.server.state import MachineState
from rusb.server.vbox.model import Hardware
from rusb.usb.types import Speed
from tests.support.running import UUID, make, wait_log

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

PROCESS = "rusb.server.machine.process"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
async def running(tmp_path: Path, said: list[str]) -> AsyncIterator[RunningMachine]:
    async with asyncio.timeout(60), make(tmp_path, said) as headless:
        yield headless


def qemu_of(running: RunningMachine) -> QemuProcess:
    assert isinstance(running._hypervisor, QemuProcess)
    return running._hypervisor


def process_of(running: RunningMachine) -> asyncio.subprocess.Process:
    process = qemu_of(running)._process
    assert process is not None
    return process


async def info() -> MachineState:
    return MachineState.from_json(await call(control_path(UUID), "info"))


@pytest.mark.parametrize("turns", [1, 2, 20])
async def test_an_end_that_is_cancelled_goes_on(
    running: RunningMachine, turns: int
) -> None:
    process = process_of(running)
    ending = asyncio.ensure_future(qemu_of(running).stop())
    for _ in range(turns):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    await qemu_of(running).stop()
    assert process.returncode is not None


async def test_ctrl_c_reaches_us_alone(running: RunningMachine) -> None:
    """A terminal sends it to each process of its group; QEMU would end by itself."""
    assert os.getpgid(process_of(running).pid) != os.getpgid(0)


async def test_devices_reach_the_controllers_of_their_speeds(
    running: RunningMachine, tmp_path: Path, said: list[str]
) -> None:
    found = await info()
    assert found.state == "running"
    assert found.process == os.getpid()
    assert said[0] == f"VRDE server is listening on port {found.display.port}."
    assert said[1].startswith("The server's certificate is sha256:")
    config = ClientConfig(
        "127.0.0.1", found.display.port, known_servers=tmp_path / "known"
    )
    speeds = {Speed.FULL: "usb0.0", Speed.HIGH: "usb1.0"}
    backend = EmulatedBackend(devices=[Loopback(speed=s) for s in speeds])
    async with connect(config, backends=[backend]):
        for speed, bus in speeds.items():
            await wait_log(tmp_path, f" on {bus} ({speed.label}Speed)")
        backend.plug(Loopback(speed=Speed.SUPER, serial="3"))
        await wait_log(tmp_path, 'VBoxManage modifyvm "Small" --usbxhci on')
    await wait_log(tmp_path, "VUSB: Detached")


async def test_power_off_by_command_and_by_itself(
    running: RunningMachine, runtime: Path
) -> None:
    path = control_path(UUID)
    await call(path, "pause")
    assert (await info()).state == "paused"
    await call(path, "resume")
    await call(path, "reset")
    await call(path, "acpipowerbutton")
    assert (await info()).state == "running"
    await call(path, "poweroff")
    await running.wait_ended()
    await running.aclose()
    with pytest.raises(ControlError, match="not running"):
        await info()
    assert not any(".qmp" in name for name in os.listdir(runtime))


async def test_the_remote_display_is_switched_while_it_runs(
    running: RunningMachine, said: list[str]
) -> None:
    path = control_path(UUID)
    before = (await info()).display.port
    await call(path, "vrde", enabled=False)
    assert (await info()).display.port == -1
    await call(path, "vrde", enabled=True)
    assert (await info()).display.port == before
    await call(path, "vrdeproperty", name="TCP/Ports", value="43000-43999")
    after = (await info()).display.port
    assert 43000 <= int(str(after)) <= 43999
    assert said[-2] == f"VRDE server is listening on port {after}."
    # a switch counts at once, and nobody is disconnected
    lines = len(said)
    await call(path, "vrdeproperty", name="Client/DisableInput", value="1")
    display = (await info()).display
    assert (display.port, len(said)) == (after, lines)
    assert display.settings.properties["Client/DisableInput"] == "1"


async def test_ports_that_are_busy_leave_the_server_as_it_was(
    running: RunningMachine, tmp_path: Path, said: list[str]
) -> None:
    path = control_path(UUID)
    before = (await info()).display.port
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = str(taken.sockets[0].getsockname()[1])
    with pytest.raises(ControlError, match=f"can't bind to the port.s. {port}"):
        await call(path, "vrdeproperty", name="TCP/Ports", value=port)
    assert (await info()).display.port == before
    assert "failed to launch VRDE server" in (tmp_path / "VBox.log").read_text()
    taken.close()
    await taken.wait_closed()
    await call(path, "vrdeproperty", name="TCP/Ports", value=port)
    assert (await info()).display.port == int(port)


async def test_a_machine_runs_even_without_a_free_port(
    tmp_path: Path, said: list[str]
) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    headless = make(tmp_path, said)
    headless.machine.remote_display.properties["TCP/Ports"] = str(port)
    async with asyncio.timeout(60), headless:
        assert (await info()).display.port == 0
        assert (await info()).state == "running"
        taken.close()
        await taken.wait_closed()
        # the same value again: now it works
        await call(
            control_path(UUID), "vrdeproperty", name="TCP/Ports", value=f"{port}"
        )
        assert (await info()).display.port == port
    assert "failed to start" in said[0]


async def test_a_qemu_that_dies_is_told_from_one_that_is_off(
    running: RunningMachine, tmp_path: Path
) -> None:
    process_of(running).kill()
    await running.wait_ended()
    assert running.failure == "QEMU ended by itself, killed by signal 9"
    assert running.failure in (tmp_path / "VBox.log").read_text()


async def test_a_qemu_that_ends_in_order_is_no_failure(
    running: RunningMachine, tmp_path: Path
) -> None:
    process_of(running).terminate()
    await running.wait_ended()
    assert running.failure == ""
    assert "QEMU: the machine is off." in (tmp_path / "VBox.log").read_text()


async def test_a_qemu_that_does_not_answer_is_stuck(
    running: RunningMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PROCESS}.STATUS_TIMEOUT", 0.2)
    process_of(running).send_signal(signal.SIGSTOP)
    assert (await info()).state == "stuck"
    process_of(running).send_signal(signal.SIGCONT)
    while (await info()).state != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def test_a_machine_runs_once(running: RunningMachine, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="already running"):
        make(tmp_path, [])


async def test_what_qemu_says_at_its_end_is_told(tmp_path: Path) -> None:
    headless = make(tmp_path, [], Hardware(memory=1 << 40))
    with pytest.raises(GuestError, match="QEMU ended by itself, status 1: .*memory"):
        async with asyncio.timeout(60), headless:
            pass
    with pytest.raises(ControlError, match="not running"):
        await info()
    assert "QEMU ended by itself, status 1" in (tmp_path / "VBox.log").read_text()


async def test_what_a_command_starts_ends_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headless = make(tmp_path, [], enabled=False)
    begun, done = asyncio.Event(), []

    class Serving:
        async def aclose(self) -> None:
            done.append("closed")

    async def start() -> None:
        begun.set()
        await asyncio.sleep(0.01)
        monkeypatch.setattr(headless, "_server", Serving())

    monkeypatch.setattr(headless, "_start_server", start)
    switching = asyncio.ensure_future(headless._set_vrde({"enabled": True}))
    async with asyncio.timeout(20):
        await begun.wait()
        await headless.aclose()
        await switching
    assert done == ["closed"]
    for command in (headless._set_vrde, headless._usbattach):
        with pytest.raises(ControlError, match="powering off"):
            await command({"enabled": False, "device": "001/002"})


async def test_a_line_of_qemu_without_an_end_keeps_nobody(tmp_path: Path) -> None:
    headless = make(tmp_path, [])
    shout = "print('x' * 200_000, flush=True); print('last word')"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", shout), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        await qemu_of(headless)._read_words(process)
        assert await process.wait() == 0
    await headless.aclose()
    log = (tmp_path / "VBox.log").read_text()
    assert "QEMU: (a line that is too long)" in log
    assert "QEMU: last word" in log


async def test_a_broken_kvm_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PROCESS}._accelerators", lambda: ["hvf", "tcg"])
    async with asyncio.timeout(60), make(tmp_path, []):
        assert (await info()).state == "running"
    assert (
        "QEMU: without hvf, because: QEMU ended" in (tmp_path / "VBox.log").read_text()
    )


@pytest.mark.parametrize(
    ("accelerators", "why"),
    [
        (["tcg"], "/nowhere/kvm: No such file or directory; enable virtualization"),
        (["hvf", "tcg"], "it does not start: QEMU ended by itself, status 1"),
        (["kvm"], ""),
    ],
)
async def test_a_machine_without_kvm_says_why_it_is_slow(
    accelerators: list[str],
    why: str,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if accelerators == ["kvm"]:  # it is not there everywhere; the machine is the same
        monkeypatch.setattr(
            f"{PROCESS}.qemu_command",
            lambda *a, accelerator, **o: qemu_command(*a, accelerator="tcg", **o),
        )
    monkeypatch.delenv("RUSB_ACCEL")
    monkeypatch.setattr(f"{PROCESS}.KVM", "/nowhere/kvm")
    monkeypatch.setattr(f"{PROCESS}._accelerators", lambda: accelerators)
    async with asyncio.timeout(60), make(tmp_path, said, enabled=False):
        notes = (await info()).notes
    if not why:
        assert (notes, said) == ((), [])
        return
    assert notes[0].startswith(f"the guest runs many times slower without KVM: {why}")
    assert said == [f"Warning: {notes[0]}"]
    assert f"Console: {notes[0]}" in (tmp_path / "VBox.log").read_text()


def test_kvm_without_permission_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "no")

    monkeypatch.delenv("RUSB_ACCEL")
    monkeypatch.setattr(f"{PROCESS}.os.open", refuse)
    problem, found = _kvm_problem(), _accelerators()
    monkeypatch.undo()
    assert problem.startswith(
        "no permission for /dev/kvm: add the user to the group kvm"
    )
    assert found == ["tcg"]


RUN = """
import asyncio, sys
from pathlib import Path
from tests.support.running import make

async def main():
    headless = make(Path(sys.argv[1]), [], enabled=False)
    async with headless:
        print(headless._hypervisor._process.pid, flush=True)
        await headless.wait_ended()

asyncio.run(main())
"""


async def test_qemu_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, str(tmp_path)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        qemu = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        await process.wait()
        while runs(qemu):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with asyncio.timeout(60), make(tmp_path, []):
        assert (await info()).state == "running"


def runs(pid: int) -> bool:
    """Is there such a process, and not only its remains?"""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
