"""The qemu guest backend against a QMP server that is as rude as it likes (T43)."""

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends.emulated import EmulatedBackend, FlashDrive
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import GuestError
from rusb.server.config import ServerConfig
from rusb.server.guests import _hotplug, _qmp, qemu
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.qemu import QemuGuest
from rusb.server.server import Server
from rusb.usb.types import Speed
from rusb.wire.usbredir import StreamState
from tests.support.fake_qemu import DONE, FakeQemu, Redirected, Refused
from tests.support.lab.ramdisk import AttachedRamDisk
from tests.support.lab.redirpeer import RamDisk
from tests.support.whole_path import machine

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("q") / "qmp"


@pytest.fixture
def fake(path: Path) -> Iterator[FakeQemu]:
    with FakeQemu(path) as server:
        yield server


@pytest.fixture
def device() -> AttachedRamDisk:
    return AttachedRamDisk(RamDisk(bytearray(1 << 20)))


def refuse(text: str) -> Callable[[dict[str, Any]], object]:
    def answer(arguments: dict[str, Any]) -> object:
        raise Refused(text)

    return answer


def arguments_of(fake: FakeQemu, name: str) -> list[dict[str, Any]]:
    return [arguments for command, arguments in fake.commands if command == name]


# ------------------------------------------------------------- address ----


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (None, "QMP socket is missing"),
        ("", "QMP socket is missing"),
        (",bus=xhci.0", "QMP socket is missing"),
        ("/run/q,port=1", "bus=NAME"),
        ("/run/q,bus=", "bus=NAME"),
    ],
)
def test_a_wrong_address_is_refused(address: str | None, why: str) -> None:
    with pytest.raises(GuestError, match=why):
        QemuGuest(address)


# --------------------------------------------------------------- start ----


async def test_a_missing_socket_says_how_to_start_qemu(path: Path) -> None:
    with pytest.raises(GuestError, match=f"-qmp unix:{path},server=on,wait=off$"):
        await QemuGuest(str(path)).start()


@pytest.mark.parametrize("address", ["127.0.0.1:5420", "tcp:localhost:5420", ":5420"])
async def test_a_port_is_no_socket(address: str) -> None:
    with pytest.raises(GuestError, match=r"over TCP is not supported.*wait=off$"):
        await QemuGuest(address).start()


async def test_a_socket_nobody_listens_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with pytest.raises(GuestError, match="nothing listens"):
        await QemuGuest(f"unix:{path}").start()


async def test_a_forbidden_socket(fake: FakeQemu) -> None:
    user = os.geteuid()
    fake.path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(GuestError, match="no permission"):
            await QemuGuest(str(fake.path)).start()
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "greeting",
    [
        b"QEMU 7.2.22 monitor - type 'help' for more\r\n",
        b'{"QMP": 7}\n',
        b"\xff\n",
        b"",
    ],
    ids=["human monitor", "wrong greeting", "not text", "hangs up"],
)
async def test_a_socket_that_does_not_speak_qmp(path: Path, greeting: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(GuestError, match="does not speak QMP"):
            await QemuGuest(str(path)).start()
        thread.join()


async def test_a_socket_another_program_holds(
    fake: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_qmp, "CONNECT_TIMEOUT", 0.2)
    first = QemuGuest(str(fake.path))
    await first.start()
    with pytest.raises(GuestError, match="another program uses.*second -qmp"):
        await QemuGuest(str(fake.path)).start()
    await first.aclose()


async def test_a_qemu_without_usb_redir(fake: FakeQemu) -> None:
    fake.answers["device-list-properties"] = refuse("Device 'usb-redir' not found")
    with pytest.raises(GuestError, match="without usb-redir"):
        await QemuGuest(str(fake.path)).start()


async def test_a_machine_without_usb_controller(fake: FakeQemu) -> None:
    fake.tree = {"/machine/peripheral": [{"name": "disk", "type": "child<ich9-ahci>"}]}
    with pytest.raises(GuestError, match="no USB controller"):
        await QemuGuest(str(fake.path)).start()


async def test_a_bus_that_is_not_there_names_those_that_are(fake: FakeQemu) -> None:
    with pytest.raises(GuestError, match=r"no USB bus 'usb.9'.*it has xhci\.0"):
        await QemuGuest(f"{fake.path},bus=usb.9").start()


@pytest.mark.parametrize(
    ("option", "bus"), [("", "x.0"), (",bus=e.0", "e.0")], ids=["xHCI first", "as told"]
)
async def test_the_bus_is_chosen(
    fake: FakeQemu, device: AttachedRamDisk, option: str, bus: str
) -> None:
    fake.tree = {
        "/machine/peripheral": [{"name": "ehci", "type": "child<ich9-usb-ehci1>"}],
        "/machine/peripheral/ehci": [{"name": "e.0", "type": "child<usb-bus>"}],
        "/machine/unattached": [{"name": "device[3]", "type": "child<nec-usb-xhci>"}],
        "/machine/unattached/device[3]": [{"name": "x.0", "type": "child<usb-bus>"}],
    }
    guest = QemuGuest(f"{fake.path}{option}")
    await guest.start()
    assert await guest.attach(device) == f"port 1 on {bus}"
    assert arguments_of(fake, "device_add")[0]["bus"] == bus
    await guest.aclose()


OHCI, EHCI, XHCI = ("pci-ohci", "usb-ehci", "qemu-xhci")
UHCI_OF_EHCI = "ich9-usb-uhci1"  # a companion: no bus of its own


def controllers(fake: FakeQemu, *kinds: str) -> None:
    """Give the machine USB controllers, each with the bus that QEMU would give it."""
    fake.tree = {"/machine/peripheral": []}
    for number, kind in enumerate(kinds):
        name = f"usb{number}"
        fake.tree["/machine/peripheral"].append(
            {"name": name, "type": f"child<{kind}>"}
        )
        if kind != UHCI_OF_EHCI:
            bus = {"name": f"{name}.0", "type": "child<usb-bus>"}
            fake.tree[f"/machine/peripheral/{name}"] = [bus]
    ours = fake._do_qom_get
    fake.answers["qom-get"] = lambda arguments: (
        "usb0.0" if arguments["property"] == "masterbus" else ours(arguments)
    )


@pytest.mark.parametrize(
    ("kinds", "speed", "bus"),
    [
        ((OHCI, EHCI), Speed.LOW, "usb0.0"),
        ((OHCI, EHCI), Speed.FULL, "usb0.0"),
        ((OHCI, EHCI), Speed.HIGH, "usb1.0"),
        ((OHCI, EHCI), Speed.SUPER, None),
        ((OHCI, EHCI, XHCI), Speed.LOW, "usb2.0"),
        ((OHCI, EHCI, XHCI), Speed.SUPER, "usb2.0"),
        ((EHCI,), Speed.HIGH, "usb0.0"),
        ((EHCI,), Speed.FULL, None),
        ((OHCI,), Speed.HIGH, None),
        ((EHCI, UHCI_OF_EHCI), Speed.FULL, "usb0.0"),
        ((EHCI, UHCI_OF_EHCI), Speed.SUPER, None),
        ((EHCI,), Speed.UNKNOWN, "usb0.0"),
    ],
)
async def test_each_speed_has_its_bus(
    fake: FakeQemu,
    device: AttachedRamDisk,
    kinds: tuple[str, ...],
    speed: Speed,
    bus: str | None,
) -> None:
    controllers(fake, *kinds)
    device.info = dataclasses.replace(device.info, speed=speed)
    guest = QemuGuest(str(fake.path))
    await guest.start()
    if bus is not None:
        assert await guest.attach(device) == f"port 1 on {bus}"
        assert arguments_of(fake, "device_add")[0]["bus"] == bus
    else:
        advice = "start QEMU with -device qemu-xhci,p2=15,p3=15,streams=off"
        with pytest.raises(GuestError, match=f"{speed.label}Speed device.*{advice}"):
            await guest.attach(device)
        assert arguments_of(fake, "device_add") == []
    await guest.aclose()


@pytest.mark.parametrize(
    ("kinds", "speed", "option"),
    [
        ((EHCI,), Speed.FULL, "--usbohci"),
        ((OHCI,), Speed.HIGH, "--usbehci"),
        ((OHCI, EHCI), Speed.SUPER, "--usbxhci"),
    ],
)
async def test_for_our_own_machine_the_option_of_modifyvm_is_named(
    fake: FakeQemu,
    device: AttachedRamDisk,
    kinds: tuple[str, ...],
    speed: Speed,
    option: str,
) -> None:
    controllers(fake, *kinds)
    device.info = dataclasses.replace(device.info, speed=speed)
    guest = QemuGuest(str(fake.path), machine="My Lab")
    await guest.start()
    with pytest.raises(GuestError, match=f'modifyvm "My Lab" {option} on'):
        await guest.attach(device)
    await guest.aclose()


async def test_the_bus_of_usb_disks_is_not_for_remote_devices(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    controllers(fake, EHCI)
    fake.tree["/machine/peripheral"] += [
        {"name": "usbdisks", "type": "child<qemu-xhci>"}
    ]
    bus = {"name": "usbdisks.0", "type": "child<usb-bus>"}
    fake.tree["/machine/peripheral/usbdisks"] = [bus]
    guest = QemuGuest(str(fake.path))
    await guest.start()
    assert await guest.attach(device) == "port 1 on usb0.0"
    await guest.aclose()


@pytest.mark.parametrize(
    ("speed", "port", "is_refused"),
    [
        (Speed.SUPER, "4.1", True),
        (Speed.SUPER, "4", False),
        (Speed.HIGH, "4.1", False),
    ],
)
async def test_a_superspeed_device_behind_the_hub_of_qemu_is_refused(
    fake: FakeQemu, device: AttachedRamDisk, speed: Speed, port: str, is_refused: bool
) -> None:
    device.info = dataclasses.replace(device.info, speed=speed)
    fake.answers["human-monitor-command"] = lambda arguments: "".join(
        f"  Device 0.5, Port {port}, Speed 12 Mb/s, Product X, ID: {id}\r\n"
        for id in fake.devices
    )
    guest = QemuGuest(str(fake.path))
    await guest.start()
    if is_refused:
        with pytest.raises(GuestError, match="in use.*full-speed hub.*p2=15,p3=15"):
            await guest.attach(device)
        assert fake.devices == {}
        assert fake.chardevs == {}
    else:
        assert await guest.attach(device) == f"port {port} on xhci.0"
    await guest.aclose()


async def test_what_a_killed_server_left_is_removed(fake: FakeQemu) -> None:
    fake.chardevs = {"rusb-dead-1": None, "rusb-dead-2": None, "mine": None}
    fake.answers["device_del"] = lambda arguments: (
        fake.chardevs.pop(arguments["id"]) or DONE
        if arguments["id"] == "rusb-dead-1"
        else refuse("not found")(arguments)
    )
    guest = QemuGuest(str(fake.path))
    await guest.start()
    assert list(fake.chardevs) == ["mine"]
    await guest.aclose()


# ------------------------------------------------------ attach, detach ----


async def test_detach_leaves_nothing_in_qemu(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    assert await guest.attach(device) == "port 1 on xhci.0"
    (end,) = fake.ends.values()
    assert isinstance(end, Redirected)
    assert end.is_attached
    await guest.detach(device)
    assert fake.devices == {}
    assert fake.chardevs == {}
    assert 2 in end.packets  # device_disconnect: the machine sees an orderly unplug
    await guest.detach(device)
    assert await guest.attach(device) == "port 1 on xhci.0"
    await guest.aclose()
    assert fake.devices == {}
    await guest.aclose()


async def test_names_in_qemu_are_never_the_devices_own(  # T43
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    evil = 'x",id=y\r\n{"execute":"quit"}'
    device.info = dataclasses.replace(device.info, product=evil, serial=evil)
    device.name = evil
    guest = QemuGuest(str(fake.path))
    await guest.start()
    await guest.attach(device)
    await guest.detach(device)
    assert "quit" not in str(fake.commands)
    assert "id=y" not in str(fake.commands)
    await guest.aclose()


async def test_a_device_that_qemu_rejects(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    fake.rejects = True
    guest = QemuGuest(str(fake.path))
    await guest.start()
    with pytest.raises(GuestError, match="refused 0951:1666"):
        await guest.attach(device)
    assert (fake.devices, fake.chardevs) == ({}, {})
    await guest.aclose()


@pytest.mark.parametrize("command", ["getfd", "chardev-add", "device_add"])
async def test_a_refused_command_leaves_nothing(  # T43
    fake: FakeQemu, device: AttachedRamDisk, command: str
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    fake.answers[command] = refuse("no free port\x1b[2J")
    with pytest.raises(GuestError, match=rf"refused {command}: no free port\[2J"):
        await guest.attach(device)
    assert (fake.devices, fake.chardevs) == ({}, {})
    del fake.answers[command]
    assert await guest.attach(device) == "port 1 on xhci.0"
    await guest.aclose()


async def test_a_paused_machine_is_not_waited_for(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    fake.answers["qom-get"] = lambda arguments: False
    fake.answers["query-status"] = lambda arguments: {"status": "paused"}
    assert await guest.attach(device) == "port 1 on xhci.0 (paused)"
    await guest.aclose()


async def test_a_machine_that_loads_its_state_takes_nothing(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    fake.answers["query-status"] = lambda arguments: {"status": "inmigrate"}
    with pytest.raises(GuestError, match="loading"):
        await guest.attach(device)
    await guest.aclose()


async def test_a_qemu_that_never_plugs_in_is_given_up(
    fake: FakeQemu, device: AttachedRamDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "ATTACH_TIMEOUT", 0.1)
    guest = QemuGuest(str(fake.path))
    await guest.start()
    fake.answers["qom-get"] = lambda arguments: False
    with pytest.raises(GuestError, match="did not plug"):
        await guest.attach(device)
    assert (fake.devices, fake.chardevs) == ({}, {})
    await guest.aclose()


async def test_an_attach_that_is_cancelled_leaves_nothing(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    was_asked = threading.Event()

    def answer(arguments: object) -> bool:
        was_asked.set()
        return False

    fake.answers["qom-get"] = answer
    attaching = asyncio.create_task(guest.attach(device))
    assert await asyncio.to_thread(was_asked.wait, 10)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert (fake.devices, fake.chardevs) == ({}, {})
    await guest.aclose()


async def test_a_device_del_that_is_never_acknowledged_is_bounded(  # T43
    fake: FakeQemu,
    device: AttachedRamDisk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(qemu, "DELETE_TIMEOUT", 0.1)
    guest = QemuGuest(str(fake.path))
    await guest.start()
    await guest.attach(device)
    (end,) = fake.ends.values()
    assert isinstance(end, Redirected)
    fake.answers["device_del"] = lambda arguments: DONE
    with caplog.at_level(logging.WARNING):
        await guest.detach(device)
    assert "does not delete" in caplog.text
    end.join(5)  # our end is closed nevertheless: the machine has lost the device
    assert not end.is_attached
    await guest.aclose()


async def test_a_qemu_that_does_not_answer_is_bounded(  # T43
    fake: FakeQemu, device: AttachedRamDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    monkeypatch.setattr(_qmp, "COMMAND_TIMEOUT", 0.1)
    fake.answers["chardev-add"] = lambda arguments: None
    async with asyncio.timeout(20):
        with pytest.raises(GuestError, match="does not answer chardev-add"):
            await guest.attach(device)
    await guest.aclose()


async def test_a_qemu_that_reads_nothing_has_not_ended(
    fake: FakeQemu, device: AttachedRamDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()

    def is_full(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("socket.send_fds", is_full)
    with pytest.raises(GuestError, match="does not answer getfd"):
        await guest.attach(device)
    monkeypatch.undo()
    await guest.aclose()


# ------------------------------------------------------------ the end ----


class Lost:
    """What watch_lost was told."""

    def __init__(self, guest: QemuGuest) -> None:
        self.devices: list[AttachedDevice] = []
        self.reasons: list[str] = []
        self._count = asyncio.Semaphore(0)
        guest.watch_lost(self._lost)

    def _lost(self, device: AttachedDevice, why: str) -> None:
        self.devices.append(device)
        self.reasons.append(why)
        self._count.release()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            for _ in range(count):
                await self._count.acquire()


async def test_device_del_by_somebody_else_is_told_once(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    lost = Lost(guest)
    await guest.start()
    await guest.attach(device)
    await asyncio.to_thread(fake.remove_device, next(iter(fake.devices)))
    await lost.wait(1)
    await guest.detach(device)
    await guest.aclose()
    assert lost.devices == [device]
    assert lost.reasons == ["removed from QEMU by device_del"]


async def test_a_qemu_that_ends_loses_every_device_once_and_may_come_back(
    path: Path, device: AttachedRamDisk
) -> None:
    other = AttachedRamDisk(RamDisk(bytearray(1 << 20)), "usb-2")
    guest = QemuGuest(str(path))
    lost = Lost(guest)
    with FakeQemu(path) as fake:
        await guest.start()
        await guest.attach(device)
        await guest.attach(other)
        await asyncio.to_thread(fake.close)
    await lost.wait(2)
    await guest.detach(device)
    with pytest.raises(
        GuestError, match=f"QEMU cannot be reached: there is no QMP socket {path}"
    ):
        await guest.attach(device)
    with FakeQemu(path) as fake:
        assert await guest.attach(device) == "port 1 on xhci.0"
        await guest.aclose()
    assert sorted(d.name for d in lost.devices) == ["usb-1", "usb-2"]
    assert lost.reasons == [f"QEMU at {path} has ended"] * 2


async def test_a_qemu_that_was_started_again_gets_its_devices_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hotplug, "RETURN_POLL", 0.02)
    told: list[str] = []
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=str(tmp_path / "VBox.log"),
        state=tmp_path,
    )
    guest = QemuGuest(str(path))
    drives = [FlashDrive(bytearray(1 << 20), serial=n) for n in ("one", "two")]
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        fake = stack.enter_context(FakeQemu(path))
        server = await stack.enter_async_context(
            Server(config, guest=guest, report=told.append)
        )
        client = ClientConfig("127.0.0.1", server.port, known_servers=tmp_path / "k")
        said: list[str] = []
        backend = EmulatedBackend(devices=drives[:1])
        session = connect(
            client, backends=[backend], on_event=lambda event: said.append(str(event))
        )
        await stack.enter_async_context(session)
        await until(lambda: [d.attached for d in server.devices()] == [True])
        await asyncio.to_thread(fake.close)
        await until(lambda: [d.attached for d in server.devices()] == [False])
        backend.plug(drives[1])  # meanwhile
        await until(lambda: len(server.devices()) == 2)
        await until(lambda: all(d.problem for d in server.devices()))
        stack.enter_context(FakeQemu(path))
        await until(lambda: all(d.attached for d in server.devices()))
        log, heard = (tmp_path / "VBox.log").read_text(), list(told)
    ended = f"QEMU at {path} has ended; its devices are attached again when it is back"
    back = "the guest is back: its devices are attached again"
    assert heard.count(ended) == heard.count(back) == 1
    assert log.count(f"VUSB: {ended}") == log.count("VUSB: The guest is back") == 1
    assert sum("was given back" in line for line in said) >= 1


async def test_a_qemu_of_a_machine_of_ours_is_not_waited_for(
    fake: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hotplug, "RETURN_POLL", 0.02)
    told: list[str] = []
    guest = QemuGuest(str(fake.path), machine="Lab")
    guest.watch_guest(told.append, lambda: told.append("back"))
    await guest.start()
    fake.hang_up()
    await asyncio.sleep(0.2)
    await guest.aclose()
    assert not told


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def test_a_monitor_that_hangs_up_loses_every_device_once(
    fake: FakeQemu, device: AttachedRamDisk
) -> None:
    guest = QemuGuest(str(fake.path))
    lost = Lost(guest)
    await guest.start()
    await guest.attach(device)
    fake.hang_up()
    await lost.wait(1)
    await guest.detach(device)
    await guest.aclose()
    assert lost.devices == [device]


@pytest.mark.parametrize("command", ["getfd", "chardev-add", "device_add", "qom-get"])
async def test_a_qemu_that_ends_amid_a_command(  # T43
    fake: FakeQemu, device: AttachedRamDisk, command: str
) -> None:
    guest = QemuGuest(str(fake.path))
    lost = Lost(guest)
    await guest.start()
    fake.answers[command] = lambda arguments: fake.hang_up()
    with pytest.raises(GuestError, match="has ended"):
        await guest.attach(device)
    await guest.aclose()
    assert lost.devices == []


@pytest.mark.parametrize("lie", [7, "text", [1, [2], None], {"status": []}, [{}]])
@pytest.mark.parametrize(
    "command",
    ["qom-list", "qom-get", "query-status", "query-chardev", "human-monitor-command"],
)
async def test_a_lying_qemu_breaks_nothing(  # T43
    fake: FakeQemu,
    device: AttachedRamDisk,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    lie: object,
) -> None:
    monkeypatch.setattr(qemu, "ATTACH_TIMEOUT", 0.1)
    fake.answers[command] = lambda arguments: lie
    guest = QemuGuest(str(fake.path))
    try:
        await guest.start()
        where = await guest.attach(device)
    except GuestError as error:
        where = str(error)
    assert where
    await guest.aclose()
    assert fake.devices == {}


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b'{"event": 7, "data": 7}',
        b'{"event": "DEVICE_DELETED", "data": {"device": ["rusb"]}}',
        b'{"return": {}, "id": "never asked"}',
        b'["list"]',
        b"7",
    ],
)
async def test_a_senseless_message_ends_at_most_the_connection(  # T43
    fake: FakeQemu, device: AttachedRamDisk, message: bytes
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    fake.send(message)
    try:
        where = await guest.attach(device)
    except GuestError:
        where = await guest.attach(device)
    assert where == "port 1 on xhci.0"
    await guest.aclose()


# -------------------------------------------------------------- screen ----


async def test_a_screen_is_a_vnc_connection_that_qemu_got(
    path: Path, fake: FakeQemu
) -> None:
    guest = QemuGuest(str(path))
    await guest.start()
    sock = await guest.open_screen(0)
    (passed,) = arguments_of(fake, "getfd")
    assert arguments_of(fake, "add_client") == [
        {"protocol": "vnc", "fdname": passed["fdname"], "skipauth": True}
    ]
    with socket.socket(fileno=fake._named.pop(passed["fdname"])) as other:
        other.send(b"RFB")
    assert await asyncio.get_running_loop().sock_recv(sock, 3) == b"RFB"
    sock.close()
    event = {"type": "btn", "data": {"button": "side", "down": True}}
    await guest.send_input(0, [event])
    assert arguments_of(fake, "input-send-event") == [{"events": [event]}]
    await guest.aclose()


async def test_a_qemu_without_vnc_says_how_to_get_a_screen(
    path: Path, fake: FakeQemu
) -> None:
    fake.answers["add_client"] = refuse("spice/vnc is not enabled")
    guest = QemuGuest(str(path))
    await guest.start()
    with pytest.raises(GuestError, match="start it with -vnc none"):
        await guest.open_screen(0)
    (passed,) = arguments_of(fake, "getfd")
    assert arguments_of(fake, "closefd") == [{"fdname": passed["fdname"]}]
    os.close(fake._named.pop(passed["fdname"]))
    with pytest.raises(GuestError, match="only shows its first screen"):
        await guest.open_screen(1)
    await guest.aclose()


async def test_a_moved_device_that_goes_while_it_is_adopted_leaves_nothing(
    fake: FakeQemu, device: AttachedRamDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = QemuGuest(str(fake.path))
    await guest.start()
    await guest.attach(device)
    bus = next(iter(guest._plugs.values())).bus.name
    await guest.detach(device)
    begun = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.BaseEventLoop, "connect_accepted_socket", hang)
    (ours, theirs), (far, qemus) = socket.socketpair(), socket.socketpair()
    with theirs, qemus:
        guest.expect("rusb-000000-1", bus, "1", ours, far)
        state = StreamState(0, 0, {}, {}, b"", was_reset=False)
        adopting = asyncio.ensure_future(
            guest.adopt(device, "rusb-000000-1", state, b"")
        )
        await begun.wait()
        adopting.cancel()
        await asyncio.wait([adopting])
        assert adopting.cancelled()
        theirs.settimeout(5)
        qemus.settimeout(5)
        assert (theirs.recv(1), qemus.recv(1)) == (b"", b"")
    assert guest._plugs == {}
    await guest.aclose()
