"""Devices of USB/IP servers and of programs that speak usbredir."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from rusb.client.backends import _stream, usbip, usbredir
from rusb.client.backends.emulated import EmulatedBackend, Microphone
from rusb.client.devices import load_backend
from rusb.errors import BackendError, DeviceBusy, DeviceGone
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.usbip import _codec as codec
from rusb.wire.usbredir._codec import HOST_CAPS, Splitter, Type
from tests.support.exporting import KINDS, Exporting, exporting
from tests.support.rusbserver import free_port

BULK, INTERRUPT = TransferType.BULK, TransferType.INTERRUPT
DEVICE = SetupPacket.get_descriptor(1, 0, 18)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often what there is."""
    monkeypatch.setattr(usbip, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(usbredir, "REDIAL_SECONDS", 0.1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Far:
    """A device that is exported, and a backend that has it."""

    def __init__(self, there: Exporting, here: DeviceBackend) -> None:
        self.there, self.here = there, here
        self.changes = 0
        self.local: LocalDevice
        self.opened: OpenDevice
        self._number = 0

    def changed(self) -> None:
        self.changes += 1

    def submit(self, urb: Urb) -> "asyncio.Future[UrbResult]":
        done: asyncio.Future[UrbResult] = asyncio.get_running_loop().create_future()
        self.opened.submit(urb, done.set_result)
        return done

    def urb(self, kind: TransferType, endpoint: int, what: bytes | int) -> Urb:
        self._number += 1
        length = what if isinstance(what, int) else len(what)
        data = what if isinstance(what, bytes) else b""
        return Urb(self._number, kind, endpoint, length, data)

    async def run(
        self, kind: TransferType, endpoint: int, what: bytes | int
    ) -> UrbResult:
        return await self.submit(self.urb(kind, endpoint, what))

    async def control(self, setup: SetupPacket, data: bytes = b"") -> UrbResult:
        self._number += 1
        return await self.submit(Urb.control(self._number, setup, data))


@contextlib.asynccontextmanager
async def far(folder: Path, kind: str, devices: str) -> AsyncIterator[Far]:
    """A device at the other end; it is open and configured."""
    async with (
        asyncio.timeout(30),
        exporting(folder, kind, EmulatedBackend(devices)) as there,
    ):
        far = Far(there, there.backend_of_it())
        far.here.watch(far.changed)
        try:
            (far.local,) = await there.listed(far.here)
            far.opened = await far.here.open(far.local)
            await far.opened.set_configuration(1)
            await far.opened.claim_interface(0)
            yield far
        finally:
            await far.here.aclose()


async def test_a_device_is_listed_as_it_is(tmp_path: Path, kind: str) -> None:
    async with far(tmp_path, kind, "loopback") as device:
        (mine,) = await device.there.backend.list_devices()
        mine_info, info = mine.info, device.local.info
        assert info.id == 0
        assert not info.remote
        for name in ("vendor_id", "product_id", "bcd_device", "device_class", "speed"):
            assert getattr(info, name) == getattr(mine_info, name)
        if kind == "usbredir":  # it is connected, so that its strings can be read
            assert info.product == "Loopback"
        else:
            assert (info.bus, info.port) == (1, 1)
        assert (await device.control(DEVICE)).length == 18


async def test_data_go_out_and_come_back(tmp_path: Path, kind: str) -> None:
    async with far(tmp_path, kind, "loopback") as device:
        data = bytes(range(256)) * 4096
        done = await device.run(BULK, 0x02, data)
        assert (done.status, done.length) == (UrbStatus.OK, len(data))
        found = await device.run(BULK, 0x82, len(data))
        assert bytes(found.data) == data


async def test_reports_come_in(tmp_path: Path, kind: str) -> None:
    async with far(tmp_path, kind, "keyboard") as device:
        (keyboard,) = device.there.backend.devices
        waiting = device.submit(device.urb(INTERRUPT, 0x81, 8))
        assert keyboard.send(0x81, bytes(8))
        assert bytes((await waiting).data) == bytes(8)


async def test_what_fails_says_so_and_leaves_the_device_usable(
    tmp_path: Path, kind: str
) -> None:
    async with far(tmp_path, kind, "loopback") as device:
        with pytest.raises(BackendError, match="select configuration 9"):
            await device.opened.set_configuration(9)
        await device.opened.set_configuration(1)
        with pytest.raises(BackendError, match="setting 7 of interface 0"):
            await device.opened.set_interface(0, 7)
        await device.opened.clear_halt(0x82)
        await device.opened.reset()
        await device.opened.release_interface(0)
        wrong = SetupPacket(0xC0, 0x77, 0, 0, 4)
        assert (await device.control(wrong)).status is UrbStatus.STALL
        assert (await device.control(DEVICE)).status is UrbStatus.OK


async def test_a_transfer_that_waits_is_cancelled(tmp_path: Path, kind: str) -> None:
    async with far(tmp_path, kind, "keyboard") as device:
        urb = device.urb(INTERRUPT, 0x81, 8)
        waiting = device.submit(urb)
        twice = device.submit(urb)
        assert (await twice).status is UrbStatus.INVALID
        device.opened.cancel(urb.id)
        device.opened.cancel(urb.id)
        device.opened.cancel(12345)
        assert (await waiting).status is UrbStatus.CANCELLED


async def test_a_closed_device_completes_all_and_can_be_opened_again(
    tmp_path: Path, kind: str
) -> None:
    async with far(tmp_path, kind, "keyboard") as device:
        with pytest.raises(DeviceBusy):
            await device.here.open(device.local)
        waiting = device.submit(device.urb(INTERRUPT, 0x81, 8))
        await device.opened.aclose()
        await device.opened.aclose()
        assert (await waiting).status is UrbStatus.CANCELLED
        assert (await device.control(DEVICE)).status is UrbStatus.NO_DEVICE
        device.opened.cancel(1)
        with pytest.raises(DeviceGone):
            await device.opened.reset()
        before = device.opened
        (again,) = await device.there.listed(device.here)
        assert again == device.local
        device.opened = await device.here.open(again)
        await before.aclose()  # it is another one's now
        assert (await device.control(DEVICE)).status is UrbStatus.OK


async def test_an_unplug_is_seen_and_a_plug(tmp_path: Path, kind: str) -> None:
    async with far(tmp_path, kind, "keyboard") as device:
        waiting = device.submit(device.urb(INTERRUPT, 0x81, 8))
        (keyboard,) = device.there.backend.devices
        device.there.backend.unplug(keyboard)
        assert (
            await waiting
        ).status is not UrbStatus.OK  # usbredir says that it stalls
        await until(lambda: device.changes > 0)
        assert (await device.control(DEVICE)).status is UrbStatus.NO_DEVICE
        with pytest.raises(DeviceGone):
            await device.opened.set_configuration(1)
        if kind == "usbip":
            await device.there.listed(device.here, 0)
        with pytest.raises(DeviceGone):
            await device.here.open(device.local)
        before = device.changes
        device.there.backend.plug(keyboard)
        await until(lambda: device.changes > before)
        (local,) = await device.there.listed(device.here)
        again = await device.here.open(local)
        await device.opened.aclose()  # what was unplugged is not what is there now
        with pytest.raises(DeviceBusy):
            await device.here.open(local)
        await again.aclose()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_closing_the_backend_completes_everything(
    tmp_path: Path, kind: str
) -> None:
    async with far(tmp_path, kind, "keyboard") as device:
        waiting = device.submit(device.urb(INTERRUPT, 0x81, 8))
        await device.here.aclose()
        await device.here.aclose()
        assert (await waiting).status is UrbStatus.CANCELLED
        await device.opened.aclose()
        assert (await device.control(DEVICE)).status is UrbStatus.NO_DEVICE


async def test_a_device_of_somebody_else_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usbip, "IMPORT_SECONDS", 0.0)
    async with far(tmp_path, "usbip", "keyboard") as device:
        other = device.there.backend_of_it()
        (local,) = await other.list_devices()
        with pytest.raises(BackendError, match="device 1-1 of .*: .*it is in use"):
            await other.open(local)
        await other.aclose()


async def test_isochronous_devices_are_known_by_class_or_endpoints(
    tmp_path: Path, kind: str
) -> None:
    microphone = EmulatedBackend(devices=[Microphone()])
    async with asyncio.timeout(30), exporting(tmp_path, kind, microphone) as there:
        backend = there.backend_of_it()
        (local,) = await there.listed(backend)
        assert local.has_isochronous
        await backend.aclose()


async def test_isochronous_packets_come_in(tmp_path: Path, kind: str) -> None:
    microphone = EmulatedBackend(devices=[Microphone()])
    async with (
        asyncio.timeout(30),
        exporting(tmp_path, kind, microphone, "rdpeusb") as there,
    ):
        device = Far(there, there.backend_of_it())
        (local,) = await there.listed(device.here)
        device.opened = await device.here.open(local)
        await device.opened.set_configuration(1)
        described = microphone.devices[0].descriptors
        (setting,) = (
            i for c in described.configurations for i in c.interfaces if i.endpoints
        )
        await device.opened.set_interface(setting.number, setting.alternate)
        (endpoint,) = setting.endpoints
        size = endpoint.packet_size
        kinds = TransferType.ISOCHRONOUS, endpoint.address
        moved = 0
        for n in range(1000, 1040):
            urb = Urb(n, *kinds, 8 * size, packets=(size,) * 8)
            result = await device.submit(urb)
            assert len(result.packets) == 8
            assert sum(p.length for p in result.packets) == len(result.data)
            moved += len(result.data)
        assert moved > 0
        await device.here.aclose()


# ------------------------------------------------------------------ addresses ----


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("usbip", r"needs usbip:HOST\[:PORT\]$"),
        ("usbip:", r"needs usbip:HOST\[:PORT\]$"),
        ("usbip:a:b", "not 'a:b'"),
        ("usbip:h:0", "not 'h:0'"),
        ("usbip:h:65536", "not 'h:65536'"),
        ("usbip:/dev/x", "not '/dev/x'"),
        ("usbip:::1", "not '::1'"),
        ("usbredir", "needs usbredir:HOST:PORT$"),
        ("usbredir:host", "needs usbredir:HOST:PORT, not 'host'"),
    ],
)
async def test_an_address_that_is_none(text: str, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        load_backend(text)


def test_an_ipv6_address_has_brackets() -> None:
    place = _stream.Place("[::1]:3241", "usbip", 3240)
    assert (place.host, place.port, str(place)) == ("::1", 3241, "[::1]:3241")
    assert _stream.Place("host", "usbip", 3240).port == 3240


async def test_nobody_listens(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    backend = load_backend(f"{kind}:127.0.0.1:{port}")
    with pytest.raises(BackendError, match=f"cannot connect to 127.0.0.1:{port}"):
        await backend.list_devices()
    await backend.aclose()
    del backend
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert caplog.text == ""  # nothing that nobody retrieved


async def test_a_name_that_is_none() -> None:
    backend = load_backend(f"usbip:{'a' * 64}.")
    with pytest.raises(BackendError, match="cannot connect to a"):
        await backend.list_devices()
    await backend.aclose()


# -------------------------------------------------------------- hostile peers ----


class Saying(asyncio.Protocol):
    """A peer that says one thing, and may hang up then."""

    def __init__(self, answer: bytes, hangs_up: bool) -> None:
        self._answer, self._hangs_up = answer, hangs_up
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._answer)
        if self._hangs_up:
            self.transport.close()


@contextlib.asynccontextmanager
async def saying(*answers: bytes, hangs_up: bool = True) -> AsyncIterator[int]:
    """A peer that says something to each connection, in turn; the last repeats."""
    left, made = list(answers), list[Saying]()

    def accept() -> Saying:
        made.append(Saying(left.pop(0) if len(left) > 1 else left[0], hangs_up))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for one in made:
            one.transport.abort()
        await asyncio.sleep(0)


def record(busid: str = "1-1", product: int = 2, interfaces: int = 1) -> codec.Record:
    info = _info(product)
    classes = ((3, 1, 1),) * interfaces
    return codec.Record(busid, 1, 2, info, 1, 1, classes, interfaces)


def _info(product: int) -> DeviceInfo:
    return DeviceInfo(0, 0x1209, product, bcd_device=0x100, speed=Speed.FULL)


LISTED = codec.device_list([record()])


@pytest.mark.parametrize(  # T31
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "USB/IP version 0x4854"),
        (LISTED[:5], "hung up before the end"),
        (LISTED[:-1], "hung up before the end"),
        (codec.OPERATION.pack(0x0111, 5, 1) + bytes(4), "gives no list"),
        (codec.OPERATION.pack(0x0111, 3, 0) + bytes(4), "unknown USB/IP operation"),
        (codec.OPERATION.pack(0x0111, 5, 0) + b"\xff" * 4, "a list of 4294967295"),
    ],
)
async def test_a_list_that_is_none(answer: bytes, why: str) -> None:
    async with asyncio.timeout(20), saying(answer) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        with pytest.raises(BackendError, match=why):
            await backend.list_devices()
        await backend.aclose()


OTHER = codec.import_reply(record(product=3))


@pytest.mark.parametrize(  # T31
    ("answer", "why"),
    [
        (b"", "hung up"),
        (b"\x01\x11", "hung up"),
        (b"\x02\x00\x00\x03\x00\x00\x00\x00", "version 0x0200"),
        (codec.import_reply(record("1-2")), "'1-2' instead of '1-1'"),
        (OTHER, "is another device now"),
        (codec.import_reply(None, 3), "it is in a state of error"),
    ],
)
async def test_an_import_that_goes_wrong(
    answer: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usbip, "IMPORT_SECONDS", 0.0)
    async with asyncio.timeout(20), saying(LISTED, answer) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        with pytest.raises(BackendError, match=why):
            await backend.open(local)
        await backend.aclose()


IMPORTED = codec.import_reply(record())
NOTHING = codec.device_list([])


async def test_an_import_that_is_refused_for_a_moment_is_tried_again() -> None:
    """Linux resets a device that was given back, and refuses it meanwhile."""
    refused = codec.import_reply(None, 1)
    answers = LISTED, refused, refused, IMPORTED
    async with asyncio.timeout(20), saying(*answers, hangs_up=False) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        opened = await backend.open(local)
        await opened.claim_interface(0)
        await backend.aclose()


async def test_what_is_in_use_here_is_listed_though_the_server_leaves_it_out() -> None:
    answers = LISTED, IMPORTED, NOTHING
    async with asyncio.timeout(20), saying(*answers, hangs_up=False) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        opened = await backend.open(local)
        assert await backend.list_devices() == [local]
        await opened.aclose()
        assert await backend.list_devices() == []
        await backend.aclose()


async def test_a_device_without_interfaces_that_cannot_be_read_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux's lists have none, and it may be in use elsewhere by now."""
    monkeypatch.setattr(usbip, "IMPORT_SECONDS", 0.0)
    listed = codec.device_list([record("3-2.4", interfaces=0)])
    refused = codec.import_reply(None, 1)
    async with asyncio.timeout(20), saying(listed, refused) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        assert (local.info.port_path, local.info.port) == ((2, 4), 4)
        assert not local.has_isochronous
        await backend.aclose()


async def test_devices_that_do_not_say_what_they_are_delay_a_list_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They have one time in all, and nothing of it is left."""
    monkeypatch.setattr(usbip, "LOOK_SECONDS", 0.5)
    many = [record(f"1-{n}", n, interfaces=0) for n in range(1, 1024)]
    answers = codec.device_list([*many, record("2-1")]), b""
    async with asyncio.timeout(20), saying(*answers, hangs_up=False) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        found = await backend.list_devices()
        assert len(found) == 1024
        assert "1023 of the devices of 127.0.0.1" in caplog.text
        assert not any("look at" in t.get_name() for t in asyncio.all_tasks())
        await backend.aclose()


async def test_one_that_does_not_say_what_it_is_does_not_delay_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usbip, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(usbip, "IMPORT_SECONDS", 0.0)
    both = [record("1-1", interfaces=0), record("1-2", 3, interfaces=0)]
    refused = codec.import_reply(None, 1)
    answers = codec.device_list(both), b"", refused
    async with asyncio.timeout(20), saying(*answers, hangs_up=False) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        assert len(await backend.list_devices()) == 2
        assert "1 of the devices of 127.0.0.1" in caplog.text
        await backend.aclose()


async def test_an_import_that_is_cancelled_as_it_is_refused_ends() -> None:
    """It is no refusal that a further attempt might get over."""
    calls = 0

    class Refusing(_stream.Place):
        async def connect(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
            nonlocal calls
            calls += 1
            cast(_stream.Connection, make()).was_refused = True
            raise asyncio.CancelledError

    backend = usbip.UsbipBackend("host")
    backend._place = Refusing("host", "usbip", 3240)
    with pytest.raises(asyncio.CancelledError):
        await backend._import("1-1@1.2 1209:0002", _info(2))
    assert calls == 1


@pytest.mark.parametrize("busid", ["x" * 32, "1-@1@2", "1-\n", "-", "1-99999.1"])
async def test_an_odd_busid_is_what_the_device_is_asked_for_by(busid: str) -> None:
    """T31: names that are no ports, or without an end."""
    odd = record(busid)
    answers = codec.device_list([odd]), codec.import_reply(odd)
    async with asyncio.timeout(20), saying(*answers, hangs_up=False) as port:
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        assert "\n" not in local.key
        if "\n" not in busid:
            await backend.open(local)
        await backend.aclose()


ANSWERS = {  # T31: what a server says to the first request, with seqnum 1
    "more than was asked for": codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, 99, 0, 0, 0),
    "less than nothing": codec.RET_SUBMIT.pack(3, 1, 0, 0, 0, 0, -1, 0, 0, 0),
    "another request": codec.RET_SUBMIT.pack(3, 9, 0, 0, 0, 0, 0, 0, 0, 0),
    "a command of a client": codec.CMD_UNLINK.pack(2, 1, 0, 0, 0, 1),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_server_that_answers_nonsense_has_lost_the_device(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    imported = codec.import_reply(record())
    async with (
        asyncio.timeout(20),
        saying(LISTED, imported + answer, hangs_up=False) as port,
    ):
        backend = load_backend(f"usbip:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        device = Far(None, backend)  # type: ignore[arg-type]
        try:
            device.opened = await backend.open(local)
        except DeviceGone:
            return  # it was said before anything was asked
        except BackendError:
            return
        assert (await device.control(DEVICE)).status is UrbStatus.NO_DEVICE
        await backend.aclose()
    assert "device 1-1" in caplog.text


async def test_a_server_that_is_silent_is_left(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_stream, usbip):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.2)
    async with asyncio.timeout(20), saying(b"", hangs_up=False) as port:
        backend = load_backend(f"{kind}:127.0.0.1:{port}")
        why = "does not answer" if kind == "usbip" else "offers no device"
        with pytest.raises(BackendError, match=why):
            await backend.list_devices()
        await backend.aclose()


def connecting(*more: bytes) -> bytes:
    """A host that connects a device, and what it says then."""
    host = Splitter(from_host=False, caps=HOST_CAPS)
    host.caps = HOST_CAPS
    hello = host.hello("evil")
    connect = host.serialize(Type.DEVICE_CONNECT, 0, 2, 0, 0, 0, 0x1209, 2, 0x0100)
    return b"".join((hello, connect, *more))


@pytest.mark.parametrize(  # T30
    ("said", "why"),
    [
        (b"\0" * 1000, "offers no device"),
        (b"GET / HTTP/1.1\r\n\r\n", "offers no device|at most"),
        (b"\0\0\0\0\xff\xff\xff\x7f\0\0\0\0", "at most"),
        (connecting(b"\x65\0\0\0\xff\xff\xff\x7f" + bytes(8)), "at most|hung up"),
    ],
)
async def test_a_host_that_says_nonsense_has_no_device(
    said: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "CONNECT_TIMEOUT", 0.5)
    async with asyncio.timeout(20), saying(said, hangs_up=False) as port:
        backend = load_backend(f"usbredir:127.0.0.1:{port}")
        with pytest.raises(BackendError, match=why):
            await backend.list_devices()
        await backend.aclose()


async def test_a_device_that_answers_nothing_is_still_listed(  # T30
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_stream, "REQUEST_TIMEOUT", 0.2)
    async with asyncio.timeout(20), saying(connecting(), hangs_up=False) as port:
        backend = load_backend(f"usbredir:127.0.0.1:{port}")
        (local,) = await backend.list_devices()
        assert (local.info.vendor_id, local.info.product) == (0x1209, None)
        opened = await backend.open(local)
        with pytest.raises(BackendError, match="did not select configuration 1 in"):
            await opened.set_configuration(1)
        await backend.aclose()


async def test_a_host_that_goes_amid_a_request_has_lost_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_stream, "REQUEST_TIMEOUT", 0.2)  # it tells nothing of itself
    loop = asyncio.get_running_loop()
    made: list[Saying] = []

    def accept() -> Saying:
        made.append(Saying(connecting(), hangs_up=False))
        return made[-1]

    async with (
        asyncio.timeout(20),
        await loop.create_server(accept, "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        backend = load_backend(f"usbredir:127.0.0.1:{port}")
        (one,), (two,) = await asyncio.gather(
            backend.list_devices(), backend.list_devices()
        )
        assert one == two
        assert len(made) == 1  # both ask over one connection
        opened = await backend.open(one)
        monkeypatch.undo()
        loop.call_later(0.05, made[0].transport.abort)
        for _ in range(2):
            with pytest.raises(DeviceGone, match="the device is gone"):
                await opened.set_configuration(1)
        await backend.aclose()
