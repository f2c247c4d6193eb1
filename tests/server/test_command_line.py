"""Commands that the real QEMU takes: paused machines, asked over QMP what they have."""

import asyncio
import contextlib
import datetime
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ConnectError, QMPClient, Runstate

from rusb.errors import SettingsError
from rusb.server.machine.command_line import qemu_command
from rusb.server.vbox.model import Adapter, Audio, Hardware, disk_format
from tests.support.hardware import controllers

UUID = "{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a704}"


@contextlib.asynccontextmanager
async def machine(
    hardware: Hardware, folder: Path, screens: Sequence[Path] = ()
) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Start a machine that stands still; talk to it."""
    monitor = folder / "qmp"
    command = qemu_command("a, b", UUID, hardware, [monitor], screens=screens)
    command.append("-S")
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE
    )
    client = QMPClient()
    try:
        async with asyncio.timeout(20):
            while client.runstate is not Runstate.RUNNING:
                if process.returncode is not None:
                    assert process.stderr is not None
                    pytest.fail((await process.stderr.read()).decode())
                await asyncio.sleep(0.05)
                with contextlib.suppress(ConnectError):
                    await client.connect(str(monitor))
            yield client.execute
            await client.execute("quit")
            await process.wait()
    finally:
        with contextlib.suppress(Exception):
            await client.disconnect()
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with an image of each format."""
    for name, kind in (
        ("a.vdi", "vdi"),
        ("b.vmdk", "vmdk"),
        ("c.vhd", "vpc"),
        ("d.qcow2", "qcow2"),
        ("e,f.img", "raw"),
    ):
        command = ["qemu-img", "create", "-q", "-f", kind, str(tmp_path / name), "4M"]
        subprocess.run(command, check=True, timeout=30)
    (tmp_path / "g.iso").write_bytes(bytes(1 << 20))
    return tmp_path


@pytest.mark.lab
async def test_a_plain_machine(tmp_path: Path) -> None:
    async with machine(Hardware(memory=96, cpus=2), tmp_path) as qmp:
        assert (await qmp("query-name"))["name"] == "a, b"
        memory = await qmp("query-memory-size-summary")
        assert memory["base-memory"] == 96 << 20
        assert len(await qmp("query-cpus-fast")) == 2
        uuid = await qmp("query-uuid")
        assert uuid["UUID"] == UUID.strip("{}")


@pytest.mark.lab
async def test_every_place_for_a_disk_and_every_format(images: Path) -> None:
    disks = [
        ("ide", 0, 0, "hdd", images / "a.vdi"),
        ("ide", 1, 0, "dvd", images / "g.iso"),
        ("ide", 1, 1, "dvd"),
        ("sata", 2, 0, "hdd", images / "b.vmdk"),
        ("scsi", 3, 0, "hdd", images / "c.vhd"),
        ("usb", 0, 0, "hdd", images / "d.qcow2"),
        ("virtio", 0, 0, "hdd", images / "e,f.img"),
        ("floppy", 0, 0, "floppy"),
    ]
    async with machine(Hardware(controllers=controllers(*disks)), images) as qmp:
        found = {
            block["device"]: block.get("inserted", {}).get("drv")
            for block in await qmp("query-block")
        }
    drivers = ["vdi", "raw", None, "vmdk", "vpc", "qcow2", "raw", None]
    assert found == {f"disk{n}": driver for n, driver in enumerate(drivers)}


@pytest.mark.lab
@pytest.mark.parametrize(("is_local", "zone"), [(False, 0), (True, 3)])
async def test_the_clock(
    is_local: bool, zone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XYZ-3")
    before = datetime.datetime.now(datetime.UTC)
    async with machine(Hardware(is_local_time=is_local), tmp_path) as qmp:
        found = await qmp("qom-get", {"path": "/machine", "property": "rtc-time"})
    day = (found["tm_year"] + 1900, found["tm_mon"] + 1, found["tm_mday"])
    clock = (found["tm_hour"], found["tm_min"], found["tm_sec"])
    date = datetime.datetime(*day, *clock, tzinfo=datetime.UTC)
    ahead = (date - before).total_seconds()
    assert abs(ahead - zone * 3600) < 60


@pytest.mark.lab
async def test_controllers_and_network(tmp_path: Path) -> None:
    hardware = Hardware(
        usb=("OHCI", "EHCI", "XHCI"),
        adapters={0: Adapter(mac="080027A1B2C3"), 1: Adapter("", "Am79C973")},
        boot=("dvd", "disk", "none", "none"),
    )
    async with machine(hardware, tmp_path) as qmp:
        tree = await qmp("qom-list", {"path": "/machine/peripheral"})
        kinds = {entry["name"]: entry["type"] for entry in tree}
        assert kinds["usb0"] == "child<pci-ohci>"
        assert kinds["usb1"] == "child<usb-ehci>"
        assert kinds["usb2"] == "child<qemu-xhci>"
        ports = {"usb0": ("num-ports",), "usb2": ("p2", "p3", "streams")}
        assert {
            (name, key): await qmp(
                "qom-get", {"path": f"/machine/peripheral/{name}", "property": key}
            )
            for name, keys in ports.items()
            for key in keys
        } == {
            ("usb0", "num-ports"): 15,
            ("usb2", "p2"): 15,
            ("usb2", "p3"): 15,
            ("usb2", "streams"): False,
        }
        assert kinds["nic0"] == "child<e1000>"
        assert kinds["nic1"] == "child<pcnet>"


@pytest.mark.lab
@pytest.mark.parametrize(
    ("controller", "devices"),
    [("AC97", {"AC97"}), ("HDA", {"intel-hda", "hda-output"}), ("SB16", {"sb16"})],
)
async def test_sound_cards_play_to_the_screen(
    controller: str, devices: set[str], tmp_path: Path
) -> None:
    hardware = Hardware(audio=Audio(controller))
    async with machine(hardware, tmp_path, [tmp_path / "0", tmp_path / "1"]) as qmp:
        tree = await qmp("qom-list", {"path": "/machine/peripheral-anon"})
        types = [entry["type"] for entry in tree]
        kinds = {kind[6:-1] for kind in types if kind.startswith("child<")}
        assert kinds == {*devices, "virtserialport"}
    first, second = (
        word
        for word in qemu_command(
            "m", UUID, hardware, [], screens=[Path("/0"), Path("/1")]
        )
        if word.startswith("unix:/")
    )
    assert first.endswith(",audiodev=sound0")
    assert "audiodev" not in second


@pytest.mark.lab
async def test_the_clipboard_has_a_port_for_the_guests_agent(tmp_path: Path) -> None:
    async with machine(Hardware(), tmp_path, [tmp_path / "0"]) as qmp:
        found = {c["label"]: c["frontend-open"] for c in await qmp("query-chardev")}
        assert found["agent"] is False  # nobody in the guest has opened it
    assert not any("agent" in word for word in qemu_command("m", UUID, Hardware(), []))


@pytest.mark.parametrize(
    ("hardware", "sentence"),
    [
        (
            Hardware(controllers=controllers(("ide", 2, 0, "dvd"))),
            "no port 2, device 0 on a",
        ),
        (Hardware(controllers=controllers(("ide", 0, 0, "hdd"))), "has no image"),
        (
            Hardware(controllers=controllers(("ide", 0, 0, "hdd", Path("/gone.vdi")))),
            "/gone.vdi does not exist",
        ),
        (Hardware(adapters={0: Adapter("bridged")}), "--nic1 nat"),
    ],
)
def test_what_qemu_cannot_do_is_said(hardware: Hardware, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        qemu_command("m", UUID, hardware, [])


def test_a_machine_without_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match="apt-get install qemu-system-x86"):
        qemu_command("m", UUID, Hardware(), [])


def test_formats_by_extension() -> None:
    names = ("x.VDI", "x.vmdk", "x.vhd", "x.qcow2", "x.img", "x.iso", "x")
    found = [disk_format(Path(name)) for name in names]
    assert found == ["vdi", "vmdk", "vpc", "qcow2", "raw", "raw", "raw"]


async def test_a_screen_and_a_tablet_are_there(tmp_path: Path) -> None:
    """QEMU takes the socket, and shows video0 there."""
    hardware = Hardware(usb=("XHCI",))
    screen = tmp_path / "a,b"
    command = qemu_command("a", UUID, hardware, [tmp_path / "qmp"], screens=[screen])
    assert "usb-tablet,bus=usb0.0" in command
    assert "usb-tablet,bus=usb0.0" not in qemu_command("a", UUID, Hardware(), [])
    process = await asyncio.create_subprocess_exec(*command, "-S")
    try:
        async with asyncio.timeout(20):
            while not screen.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_unix_connection(screen)
            assert await reader.readexactly(12) == b"RFB 003.008\n"
            writer.close()
    finally:
        process.kill()
        await process.wait()


async def test_several_heads_have_a_socket_and_a_tablet_each(tmp_path: Path) -> None:
    hardware, monitor = Hardware(usb=("XHCI",)), tmp_path / "qmp"
    screens = [tmp_path / "0", tmp_path / "1"]
    command = qemu_command("a", UUID, hardware, [monitor], screens=screens)
    process = await asyncio.create_subprocess_exec(*command)
    client = QMPClient()
    try:
        async with asyncio.timeout(20):
            while not (monitor.exists() and screens[1].exists()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            for screen in screens:
                reader, writer = await asyncio.open_unix_connection(screen)
                assert await reader.readexactly(12) == b"RFB 003.008\n"
                writer.close()
            await client.connect(str(monitor))
            for head in (0, 1):
                events = [{"type": "abs", "data": {"axis": "x", "value": 5}}]
                place = {"device": "video0", "head": head}
                await client.execute("input-send-event", {"events": events, **place})
            await client.disconnect()
    finally:
        process.kill()
        await process.wait()
