"""Network, keyboard and screen of a real QEMU; its guest answers on its serial port."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.errors import ControlError
from rusb.server.control import call, control_path
from rusb.server.headless import Headless
from rusb.server.machine.forwards import Forward
from rusb.server.machine.qemu_command import Adapter, Disk, Hardware
from rusb.server.machine.serialport import SerialPort
from tests.server.test_headless import UUID, make, runtime, wait_log

__all__ = ["runtime"]

ECHO = bytes.fromhex("b400cd16 baf803 ee ebf6").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector that sends each key to COM1: mov ah,0; int 16h; mov dx,3f8h;
out dx,al; jmp."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def machine(folder: Path, *rules: str) -> Headless:
    """A machine whose guest types what it reads, with two network adapters."""
    (folder / "floppy.img").write_bytes(ECHO.ljust(1440 << 10, b"\0"))
    hardware = Hardware(
        memory=64,
        disks=[Disk("floppy", 0, 0, "floppy", folder / "floppy.img")],
        serial=SerialPort("RawFile", str(folder / "com1.log")),
        adapters={
            0: Adapter(forwards=tuple(map(Forward.parse, rules))),
            2: Adapter("", is_linked=False),
        },
    )
    return make(folder, [], hardware, enabled=False)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Headless]:
    async with asyncio.timeout(60), machine(tmp_path) as headless:
        yield headless


async def ask(command: str, **arguments: object) -> object:
    found: object = await call(control_path(UUID), command, **arguments)
    return found


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def test_ports_are_forwarded_while_it_runs(
    running: Headless, tmp_path: Path
) -> None:
    port = free_port()
    rule = f"ssh,tcp,127.0.0.1,{port},,22"
    assert not is_open(port)
    await ask("natpf", number=1, add=rule)
    assert is_open(port)
    state = await ask("info")
    assert isinstance(state, dict)
    assert state["forwards"] == {"0": [rule]}
    for arguments, sentence in (
        ({"number": 1, "add": rule}, "already a rule named 'ssh'"),
        ({"number": 1, "add": "x"}, "is not NAME,tcp"),
        ({"number": 1, "delete": "x"}, "named 'x'; the adapter has: 'ssh'"),
        ({"number": 3, "add": rule}, "adapter 3 is not attached to NAT"),
        ({"number": 2, "add": rule}, "no network adapter 2; it has: 1, 3"),
    ):
        with pytest.raises(ControlError, match=sentence):
            await ask("natpf", **arguments)
    await ask("natpf", number=1, delete="ssh")
    assert not is_open(port)


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rule = f"ssh,tcp,127.0.0.1,{port},,22"
        with pytest.raises(ControlError) as caught:
            async with asyncio.timeout(60), machine(tmp_path, rule):
                pass
    assert str(caught.value) == (
        f"the forwarding rule {rule!r} of network adapter 1: the host's port {port}"
        " cannot be used: Address already in use; choose another port; or take the rule"
        " out: modifyvm VM --natpf1 delete ssh"
    )


async def test_the_rules_of_the_settings_are_in_force_and_cables_out(
    tmp_path: Path,
) -> None:
    port = free_port()
    rule = f"ssh,tcp,127.0.0.1,{port},,22"
    async with asyncio.timeout(60), machine(tmp_path, rule):
        assert is_open(port)
        await ask("setlinkstate", number=3, enabled=True)
        await ask("setlinkstate", number=1, enabled=False)
    log = (tmp_path / "VBox.log").read_text()
    assert f"NAT: adapter 1: added {rule}" in log
    states = ("3: link down", "3: link up", "1: link down")
    places = [log.index(f"network adapter {state}") for state in states]
    assert places == sorted(places)


async def test_the_guest_reads_what_is_typed_and_its_screen_is_seen(
    running: Headless, tmp_path: Path
) -> None:
    picture = tmp_path / "screen.ppm"
    serial = tmp_path / "com1.log"
    while not serial.read_bytes():  # the guest has started when it answers
        await ask("keys", codes="1e9e")  # a
    await ask("keys", codes="2a1e9eaa 1c9c")
    while not serial.read_bytes().endswith(b"A\r"):
        await ask("info")
    assert serial.read_bytes().strip(b"a") == b"A\r"
    await ask("screenshot", file=str(picture))
    assert picture.read_bytes().startswith(b"P6\n")
    for codes, sentence in (
        ("e0", "that follows e0 is missing"),
        ("xy", "scan codes are hexadecimal"),
        ("1e" * 257, "257 keys at once, at most 256"),
    ):
        with pytest.raises(ControlError, match=sentence):
            await ask("keys", codes=codes)
    await ask("acpisleepbutton")
    await ask("pause")
    with pytest.raises(ControlError, match="the machine is paused, so that"):
        await ask("keys", codes="1e9e")
    with pytest.raises(ControlError, match="QEMU refused screendump"):
        await ask("screenshot", file=str(tmp_path / "nowhere" / "x"))
    await wait_log(tmp_path, "QEMU: ")
