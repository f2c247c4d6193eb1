"""The contract of server/guests/base.py, kept by every guest backend.

A guest is whatever runs programs that use devices: here programs of the test's own,
in place of QEMU's USB controller, of a pyusb program, or in this process. Those that
take serial ports instead of devices have tests/server/test_serial_guests.py.
"""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import rusb.server.guests
from rusb import plugins
from rusb.errors import GuestError
from rusb.server.guests._kubernetes import Cluster
from rusb.server.guests._serial import SerialGuest
from rusb.server.guests.base import AttachedDevice, GuestBackend
from rusb.server.guests.kubevirt import KubevirtGuest
from rusb.server.guests.libvirt import LibvirtGuest
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.usbredir import UsbredirGuest
from rusb.server.guests.vhci import FREE, IN_USE, Vhci, VhciGuest, VhciPort
from rusb.usb.urb import Urb, UrbStatus
from rusb.wire.usbip import UsbipGuestSide
from tests.support.fake_libvirt import FakeLibvirt
from tests.support.fake_qemu import FakeQemu, GuestEnd
from tests.support.guest_programs import (
    IN,
    OTHER_IN,
    OUT,
    Device,
    Program,
    Redirected,
    until,
)
from tests.support.kubernetes import FakeApi

GUESTS = [p.name for p in plugins.find(rusb.server.guests) if p.package == "rusb"]


class Local(Program):
    """In this process, as those of the loopback guest."""

    def __init__(self, guest: LoopbackGuest, device: Device) -> None:
        super().__init__()
        self._guest = guest
        self._device = guest.devices[device.name]
        self._ids: dict[int, int] = {}

    def _submit(self, urb: Urb) -> None:
        self._ids[urb.id] = self._device.submit(
            *(urb.type, urb.endpoint, urb.length, bytes(urb.data)),
            self.results[urb.id].append,
        )

    def cancel(self, number: int) -> None:
        self._device.attached.cancel(self._ids[number])

    @property
    def has_device(self) -> bool:
        return self._device in self._guest.devices.values()


# ------------------------------------------------------------------ rigs ----


class Rig(ABC):
    """A guest backend, and the guest that it puts devices into."""

    backend: GuestBackend
    is_losing = False  # does this guest ever drop a device by itself?

    @abstractmethod
    async def open(self, device: Device) -> Program:
        """Run a program that uses an attached device; it is ready for transfers."""

    @abstractmethod
    def left(self) -> list[str]:
        """What there is of devices in the guest."""

    def lose(self) -> None:
        """The guest drops its device."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """End the guest."""


class LoopbackRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.backend = self.guest = LoopbackGuest()

    async def open(self, device: Device) -> Program:
        return Local(self.guest, device)

    def left(self) -> list[str]:
        return list(self.guest.devices)

    def close(self) -> None:
        assert self.left() == []


class PyusbRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bus"
        self.backend = load("pyusb")(str(self.folder))
        self._programs: list[Redirected] = []

    async def open(self, device: Device) -> Program:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.folder / f"{device.name}.usb"))
        self._programs.append(program := Redirected(sock))
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def close(self) -> None:
        for program in self._programs:
            program.close()


class QemuRig(Rig):
    is_losing = True

    def __init__(self, folder: Path) -> None:
        self.fake = FakeQemu(folder / "qmp")
        self.fake.plug = self._plug
        self.backend = load("qemu")(str(folder / "qmp"))
        self._programs: list[Redirected] = []

    def _plug(self, sock: socket.socket) -> GuestEnd:
        self._programs.append(Redirected(sock))
        return self._programs[-1]

    async def open(self, device: Device) -> Program:
        program = self._programs[-1]
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        return [*self.fake.devices, *self.fake.chardevs]

    def lose(self) -> None:
        self.fake.remove_device(*self.fake.devices)

    def close(self) -> None:
        self.fake.close()


class LibvirtRig(Rig):
    is_losing = True

    def __init__(self, folder: Path) -> None:
        self.fake = FakeLibvirt(folder)
        self.fake.plug = self._plug
        self.backend = LibvirtGuest("lab", program=self.fake.program)
        self._programs: list[Redirected] = []

    def _plug(self, sock: socket.socket) -> GuestEnd:
        self._programs.append(Redirected(sock))
        return self._programs[-1]

    async def open(self, device: Device) -> Program:
        program = self._programs[-1]
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        return list(self.fake.devices)

    def lose(self) -> None:
        self.fake.detach(*self.fake.devices)

    def close(self) -> None:
        self.fake.close()


class UsbipRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.backend = load("usbip")("127.0.0.1:0")
        self._programs: list[Redirected] = []

    async def open(self, device: Device) -> Program:
        assert isinstance(self.backend, UsbipGuest)
        sock = socket.create_connection(("127.0.0.1", self.backend.port), 5)
        sock.settimeout(None)
        (record,) = (r for r in self.backend.records() if r.info == device.info)
        program = Redirected(sock, UsbipGuestSide(record.busid))
        self._programs.append(program)
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        assert isinstance(self.backend, UsbipGuest)
        return [record.busid for record in self.backend.records()]

    def close(self) -> None:
        for program in self._programs:
            program.close()


class UsbredirRig(Rig):
    """It listens, as for QEMU's chardevs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "redir.sock"
        self.backend = self.guest = UsbredirGuest(f"listen={self.path}")
        self._programs: list[Redirected] = []

    async def open(self, device: Device) -> Program:
        before = [plug.device for plug in self.guest._plugs if plug.stream is None]
        for _ in range(before.index(device) + 1):  # each gets the next that is free
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(self.path))
            self._programs.append(Redirected(sock))
            await until(lambda: self._programs[-1].is_ready)
        return self._programs[-1]

    def left(self) -> list[str]:
        return [plug.device.name for plug in self.guest._plugs]

    def close(self) -> None:
        for program in self._programs:
            program.close()


class FakeVhci(Vhci):
    """A kernel that runs programs in place of its drivers."""

    def __init__(self) -> None:
        super().__init__()
        self.programs: list[Redirected] = []

    def ports(self) -> list[VhciPort]:
        used = [program.is_attached for program in self.programs]
        return [
            VhciPort(
                number,
                IN_USE if number < len(used) and used[number] else FREE,
                is_super=False,
            )
            for number in range(len(used) + 1)
        ]

    def check_access(self) -> None:
        pass

    def attach(self, port: int, sock: socket.socket, devid: int, speed: int) -> None:
        core = UsbipGuestSide(devid=devid)
        program = Redirected(sock.dup(), core)
        if port < len(self.programs):
            self.programs[port].close()
            self.programs[port] = program
        else:
            self.programs.append(program)


class VhciRig(Rig):
    is_losing = True

    def __init__(self, folder: Path) -> None:
        self.fake = FakeVhci()
        self.backend = VhciGuest(driver=self.fake)

    async def open(self, device: Device) -> Program:
        program = self.fake.programs[-1]
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        return [str(port.number) for port in self.fake.ports() if port.state != FREE]

    def lose(self) -> None:
        self.fake.programs[-1].close()

    def close(self) -> None:
        for program in self.fake.programs:
            program.close()


class InCluster(KubevirtGuest):
    """With an API server in front of programs."""

    def __init__(self) -> None:
        self.programs: list[Redirected] = []
        self._api = FakeApi(self._slot)
        self._listening = self._api.listening()
        super().__init__("lab/vm", find=self._cluster)

    def _cluster(self) -> Cluster:
        server = f"http://127.0.0.1:{self._api.port}"
        return Cluster(server, "good", None, "lab", "the test")

    def _slot(self, slot: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.programs.append(Redirected(theirs))
        return ours

    async def start(self) -> None:
        await self._listening.__aenter__()
        await super().start()

    async def aclose(self) -> None:
        await super().aclose()
        await self._listening.__aexit__(None, None, None)


class KubevirtRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.backend = self.guest = InCluster()

    async def open(self, device: Device) -> Program:
        program = self.guest.programs[-1]
        await until(lambda: program.is_ready)
        return program

    def left(self) -> list[str]:
        return [slot.device.name for slot in self.guest._slots]

    def close(self) -> None:
        for program in self.guest.programs:
            program.close()


RIGS: dict[str, Callable[[Path], Rig]] = {
    "libvirt": LibvirtRig,
    "kubevirt": KubevirtRig,
    "loopback": LoopbackRig,
    "pyusb": PyusbRig,
    "qemu": QemuRig,
    "usbip": UsbipRig,
    "usbredir": UsbredirRig,
    "vhci": VhciRig,
}


PLAUSIBLE: dict[str, str | None] = {
    "rfc2217": "127.0.0.1:0",
    "kubevirt": "lab/vm",
    "usbip": "127.0.0.1:0",
    "vhci": None,
}
"""Addresses of guests that have no path."""


def load(name: str) -> type[GuestBackend]:
    plugin = plugins.load(rusb.server.guests, name)
    assert isinstance(plugin, type)
    assert issubclass(plugin, GuestBackend)
    return plugin


@pytest.fixture(params=RIGS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    made = RIGS[request.param](tmp_path)
    try:
        await made.backend.start()
        yield made
        await made.backend.aclose()
    finally:
        made.close()


# ----------------------------------------------------------------- tests ----


def test_every_guest_of_ours_has_a_rig() -> None:
    serial = {name for name in GUESTS if issubclass(load(name), SerialGuest)}
    assert set(GUESTS) == set(RIGS) | serial, "describe the new guest in RIGS"


@pytest.mark.parametrize("name", GUESTS)
async def test_a_guest_that_was_never_started_can_be_closed(
    name: str, tmp_path: Path
) -> None:
    try:
        backend = load(name)(PLAUSIBLE.get(name, str(tmp_path / "guest")))
    except GuestError as error:
        pytest.fail(f"a plausible address is refused: {error}")
    await backend.detach(Device())
    await backend.aclose()
    await backend.aclose()


async def test_a_program_in_the_guest_uses_the_device(rig: Rig) -> None:
    device = Device()
    where = await rig.backend.attach(device)
    assert where
    assert rig.left()
    program = await rig.open(device)
    read, write = program.start(IN, 512), program.start(OUT, 31)
    await until(lambda: len(device.seen) == 2)
    assert [(u.endpoint, u.length, len(u.data)) for u in device.seen] == [
        *((IN, 512, 0), (OUT, 31, 31)),
    ]
    for urb in list(device.seen):
        device.complete(urb)
    await until(lambda: len(program.statuses) == 2)
    (result,), (written,) = program.results[read], program.results[write]
    assert (bytes(result.data), written.length) == (bytes(512), 31)


async def test_every_transfer_ends_once_with_what_the_device_said(rig: Rig) -> None:
    device = Device()
    await rig.backend.attach(device)
    program = await rig.open(device)
    wanted = [UrbStatus.OK, UrbStatus.STALL] * 20
    for _ in wanted:
        program.start(IN, 64)
    await until(lambda: len(device.seen) == len(wanted))
    for urb, status in zip(list(device.seen), wanted, strict=True):
        device.complete(urb, status)
    await until(lambda: len(program.statuses) == len(wanted))
    await asyncio.sleep(0.02)
    assert program.statuses == wanted


async def test_endpoints_do_not_wait_for_each_other(rig: Rig) -> None:
    """Invariant 2."""
    device = Device()
    await rig.backend.attach(device)
    program = await rig.open(device)
    slow, fast = program.start(IN, 8), program.start(OTHER_IN, 8)
    await until(lambda: len(device.seen) == 2)
    (urb,) = [u for u in device.seen if u.endpoint == OTHER_IN]
    device.complete(urb)
    await until(lambda: program.results[fast])
    assert program.results[slow] == []


async def test_a_transfer_that_a_program_aborts_is_cancelled(rig: Rig) -> None:
    device = Device()
    await rig.backend.attach(device)
    program = await rig.open(device)
    program.start(IN, 8)
    program.start(OTHER_IN, 8)
    await until(lambda: len(device.seen) == 2)
    program.cancel(1)
    await until(lambda: device.cancelled)
    (urb,) = [u for u in device.seen if u.endpoint == IN]
    assert device.cancelled == [urb.id]
    device.complete(urb, UrbStatus.CANCELLED)
    await until(lambda: program.results[1])
    assert program.statuses == [UrbStatus.CANCELLED]


async def test_detaching_ends_open_transfers_and_leaves_nothing(rig: Rig) -> None:
    device = Device()
    await rig.backend.attach(device)
    program = await rig.open(device)
    for endpoint in (IN, IN, OTHER_IN, OUT):
        program.start(endpoint, 64)
    await until(lambda: len(device.seen) == 4)
    assert program.has_device
    detaching = asyncio.create_task(rig.backend.detach(device))
    await asyncio.sleep(0)
    device.complete_all(UrbStatus.NO_DEVICE)  # around the call, as its owner does
    await detaching
    await until(lambda: len(program.statuses) == 4)
    assert UrbStatus.OK not in program.statuses
    await until(lambda: not program.has_device)
    assert rig.left() == []
    await rig.backend.detach(device)
    await rig.backend.detach(Device(2))  # it was never there
    assert len(program.statuses) == 4


async def test_a_completion_that_comes_after_the_detach_harms_nobody(rig: Rig) -> None:
    device, other = Device(), Device(2)
    await rig.backend.attach(device)
    program = await rig.open(device)
    program.start(IN, 64)
    await until(lambda: device.seen)
    await rig.backend.detach(device)
    await rig.backend.attach(other)
    device.complete_all(UrbStatus.NO_DEVICE)
    await until(lambda: len(program.statuses) == 1)
    again = await rig.open(other)
    again.start(IN, 8)
    await until(lambda: other.seen)
    other.complete(other.seen[0])
    await until(lambda: again.statuses == [UrbStatus.OK])


async def test_a_device_can_come_back(rig: Rig) -> None:
    device = Device()
    programs = []
    for count in range(1, 4):
        await rig.backend.attach(device)
        programs.append(await rig.open(device))
        programs[-1].start(OUT, 8)
        await until(lambda: device.open)
        device.complete_all(UrbStatus.OK)
        await until(lambda: programs[-1].statuses == [UrbStatus.OK])
        await rig.backend.detach(device)
        assert (len(device.seen), rig.left()) == (count, [])


async def test_a_device_that_goes_while_it_is_attached_leaves_nothing(rig: Rig) -> None:
    """At whichever step: its client may go at any moment."""
    await rig.backend.attach(first := Device(1))  # connects, where that is done once
    await rig.backend.detach(first)
    await until(lambda: not rig.left())
    for steps in range(12):
        device = Device(2 + steps)
        attaching = asyncio.ensure_future(rig.backend.attach(device))
        for _ in range(steps):
            await asyncio.sleep(0)
        attaching.cancel()
        await asyncio.wait([attaching])
        if not attaching.cancelled():
            assert attaching.result()
            await rig.backend.detach(device)
        await until(lambda: not rig.left())
    await rig.backend.attach(last := Device(99))
    await rig.backend.detach(last)


async def test_closing_unplugs_everything_and_leaves_no_task(rig: Rig) -> None:
    """Invariant 6."""
    before = asyncio.all_tasks()
    devices = [Device(n) for n in (1, 2, 3)]
    for device in devices:
        await rig.backend.attach(device)
    program = await rig.open(devices[-1])
    program.start(IN, 64)
    await until(lambda: devices[-1].seen)
    for _ in range(2):
        await rig.backend.aclose()
    for device in devices:
        device.complete_all(UrbStatus.NO_DEVICE)
    await until(lambda: len(program.statuses) == 1)
    assert rig.left() == []
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_device_that_the_guest_drops_is_lost_once(rig: Rig) -> None:
    lost: list[tuple[AttachedDevice, str]] = []
    rig.backend.watch_lost(lambda device, why: lost.append((device, why)))
    device = Device()
    await rig.backend.attach(device)
    if not rig.is_losing:
        await rig.backend.detach(device)
        assert lost == []  # it knows of no other end
        return
    program = await rig.open(device)
    program.start(IN, 64)
    await until(lambda: device.seen)
    rig.lose()
    await until(lambda: lost)
    device.complete_all(UrbStatus.NO_DEVICE)
    ((found, why),) = lost
    assert found is device
    assert why
    await rig.backend.detach(device)  # it counts as detached
    await until(lambda: len(program.statuses) == 1)
    assert rig.left() == []
    await rig.backend.attach(device)
    await asyncio.sleep(0.4)  # whatever else its end is noticed by
    assert len(lost) == 1
