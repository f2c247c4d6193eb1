"""Network, keyboard and screen of a real QEMU; its guest answers on its serial port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.errors import ControlError, GuestError
from rusb.server.machine.console import Console
from rusb.server.machine.control import call, control_path
from rusb.server.machine.running import RunningMachine
from rusb.server.vbox.forwards import Forward
from rusb.server.vbox.model import Adapter, Hardware
from rusb.server.vbox.serialport import SerialPort
from tests.support.hardware import controllers
from tests.support.running import UUID, make, wait_log
from tests.support.rusbserver import free_port

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

ECHO = bytes.fromhex("baf803 b021 ee b400 cd16 baf803 ee ebf6")
ECHO = ECHO.ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector that sends an exclamation mark to COM1, then each key: mov dx,3f8h;
mov al,21h; out dx,al; again: mov ah,0; int 16h; mov dx,3f8h; out dx,al; jmp again."""


def machine(
    folder: Path, *rules: str, serial: SerialPort | None = None
) -> RunningMachine:
    """A machine whose guest types what it reads, with two network adapters."""
    (folder / "floppy.img").write_bytes(ECHO.ljust(1440 << 10, b"\0"))
    hardware = Hardware(
        memory=64,
        controllers=controllers(("floppy", 0, 0, "floppy", folder / "floppy.img")),
        serial=serial or SerialPort("RawFile", str(folder / "com1.log")),
        adapters={
            0: Adapter(forwards=tuple(map(Forward.parse, rules))),
            2: Adapter("", is_linked=False),
        },
    )
    return make(folder, [], hardware, enabled=False)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningMachine]:
    async with asyncio.timeout(60), machine(tmp_path) as headless:
        yield headless


async def ask(command: str, **arguments: object) -> object:
    found: object = await call(control_path(UUID), command, **arguments)
    return found


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def test_ports_are_forwarded_while_it_runs(
    running: RunningMachine, tmp_path: Path
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
        ({"number": 2, "add": rule}, "no network adapter 2; choose one of 1, 3"),
    ):
        with pytest.raises(ControlError, match=sentence):
            await ask("natpf", **arguments)
    await ask("natpf", number=1, delete="ssh")
    assert not is_open(port)


async def test_rules_that_come_at_the_same_time_are_all_kept() -> None:
    hardware = Hardware(memory=64, adapters={0: Adapter()})

    async def answer(command: str, arguments: object) -> object:
        await asyncio.sleep(0)
        return ""

    console = Console(
        hardware,
        answer,
        1,
        lambda slot: (f"net{slot}", f"nic{slot}"),
        lambda line: None,
    )
    add = console.changes()["natpf"]
    rules = [f"{name},tcp,127.0.0.1,{port},,22" for port, name in enumerate("abc", 1)]
    calls = [add({"number": 1, "add": rule}) for rule in (*rules, rules[0])]
    *_, last = await asyncio.gather(*calls, return_exceptions=True)
    assert console.rules() == {"0": tuple(rules)}
    assert "already a rule named 'a'" in str(last)


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rule = f"ssh,tcp,127.0.0.1,{port},,22"
        with pytest.raises(ControlError) as caught:
            async with asyncio.timeout(60), machine(tmp_path, rule):
                pass
    assert str(caught.value) == (
        f"the forwarding rule {rule!r} of network adapter 1: the host's port {port}"
        " cannot be used: Address already in use; choose another port; or remove the"
        " rule: modifyvm VM --natpf1 delete ssh"
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
        state = await ask("info")
        assert isinstance(state, dict)
        assert state["links"] == {"0": False, "2": True}
    log = (tmp_path / "VBox.log").read_text()
    assert f"NAT: adapter 1: added {rule}" in log
    states = ("3: link down", "3: link up", "1: link down")
    places = [log.index(f"network adapter {state}") for state in states]
    assert places == sorted(places)


async def test_the_guest_reads_what_is_typed_and_its_screen_is_seen(
    running: RunningMachine, tmp_path: Path
) -> None:
    picture = tmp_path / "screen.ppm"
    serial = tmp_path / "com1.log"
    while not serial.read_bytes():  # keys confuse a BIOS that looks for a keyboard
        await ask("info")
    await ask("keys", codes="1e9e 2a1e9eaa 1c9c")
    while len(serial.read_bytes()) < 4:
        await ask("info")
    assert serial.read_bytes() == b"!aA\r"
    await ask("screenshot", file=str(picture))
    assert picture.read_bytes().startswith(b"P6\n")
    for codes, sentence in (
        ("e0", "code after e0 is missing"),
        ("xy", "scan codes are hexadecimal"),
        ("1e" * 257, "257 keys at once; the maximum is 256"),
    ):
        with pytest.raises(ControlError, match=sentence):
            await ask("keys", codes=codes)
    await ask("acpisleepbutton")
    await ask("pause")
    with pytest.raises(ControlError, match="the machine is paused, so its guest"):
        await ask("keys", codes="1e9e")
    with pytest.raises(ControlError, match="screen 1: the machine only has screen 0"):
        await ask("screenshot", file=str(picture), screen=1)
    with pytest.raises(ControlError, match="QEMU refused screendump"):
        await ask("screenshot", file=str(tmp_path / "nowhere" / "x"))
    await wait_log(tmp_path, "QEMU: ")


async def test_each_of_two_screens_has_its_picture(tmp_path: Path) -> None:
    headless = make(tmp_path, [], Hardware(memory=32), enabled=False, monitors=2)
    async with asyncio.timeout(60), headless:
        for screen in range(2):
            picture = tmp_path / f"{screen}.ppm"
            await ask("screenshot", file=str(picture), screen=screen)
            assert picture.read_bytes().startswith(b"P6\n")
        with pytest.raises(ControlError, match="screen 2: the machine has the screens"):
            await ask("screenshot", file=str(tmp_path / "2.ppm"), screen=2)


@pytest.mark.parametrize("word", ["server", "client", "tcpserver", "tcpclient"])
async def test_the_serial_port_has_another_end(
    word: str, tmp_path: Path, runtime: Path
) -> None:
    loop = asyncio.get_running_loop()
    is_tcp, is_server = word.startswith("tcp"), word.endswith("server")
    port, path = free_port(), str(runtime / "com1")
    address = ("127.0.0.1", port) if is_tcp else path
    value = path if not is_tcp else str(port) if is_server else f"127.0.0.1:{port}"
    serial = SerialPort.parse(word, value)
    with contextlib.ExitStack() as stack:
        ours = socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX)
        stack.enter_context(ours).setblocking(False)
        if not is_server:
            ours.bind(address)
            ours.listen(1)
        async with asyncio.timeout(60), machine(tmp_path, serial=serial):
            if is_server:
                await loop.sock_connect(ours, address)
            else:
                ours = stack.enter_context((await loop.sock_accept(ours))[0])
            answer = asyncio.ensure_future(loop.sock_recv(ours, 1))
            while not (await asyncio.wait([answer], timeout=5))[0]:
                await ask("reset")  # it had spoken before we listened
            assert answer.result() == b"!"


@pytest.mark.parametrize("word", ["tcpserver", "tcpclient"])
async def test_another_end_that_is_not_there_is_named(
    word: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if word == "tcpclient":
            taken.close()
        value = str(port) if word == "tcpserver" else f"127.0.0.1:{port}"
        headless = machine(tmp_path, serial=SerialPort.parse(word, value))
        with pytest.raises(GuestError) as caught:
            async with asyncio.timeout(60), headless:
                pass
    why = "Address already in use" if word == "tcpserver" else "Connection refused"
    assert why in str(caught.value)
    assert "modifyvm VM --uartmode1 disconnected" in str(caught.value)
