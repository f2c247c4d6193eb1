"""USB/IP clients at the port of the guest usbip, and the driver's files of vhci."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.errors import GuestError
from rusb.server.guests import usbip
from rusb.server.guests._listening import parse_place
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.vhci import FREE, Vhci, VhciGuest, VhciPort, parse_status
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from rusb.wire.usbip import _codec as codec
from tests.support.guest_programs import DESCRIPTORS, Device, until

SYSFS = json.loads((Path(__file__).parents[1] / "vectors" / "usbip.json").read_text())[
    "sysfs"
]


class Other(Device):
    """A device of another speed."""

    def __init__(self, number: int, speed: Speed) -> None:
        super().__init__(number)
        self.info = DeviceInfo(number, 0x1209, number, speed=speed)


@pytest.fixture
async def guest() -> AsyncIterator[UsbipGuest]:
    guest = UsbipGuest("127.0.0.1:0")
    await guest.start()
    yield guest
    await guest.aclose()


Ends = list[socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Connections of clients, which are closed in the end."""
    found: Ends = []
    yield found
    for sock in found:
        sock.close()


async def call(guest: UsbipGuest, ends: Ends) -> socket.socket:
    """Connect."""
    sock = socket.socket()
    ends.append(sock)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", guest.port))
    return sock


async def ask(guest: UsbipGuest, ends: Ends, *parts: bytes) -> bytes:
    """Connect and send a request in parts; return the first of the answer."""
    loop = asyncio.get_running_loop()
    sock = await call(guest, ends)
    for part in parts:
        await loop.sock_sendall(sock, part)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        return await loop.sock_recv(sock, 1 << 16)


async def test_the_list_has_what_is_attached_and_ends_the_connection(
    guest: UsbipGuest, ends: Ends
) -> None:
    assert await guest.attach(Device(1)) == f"busid 1-1 at 127.0.0.1 port {guest.port}"
    assert "busid 2-1" in await guest.attach(Other(2, Speed.SUPER))
    records = codec.DeviceList().receive(await ask(guest, ends, codec.list_request()))
    async with asyncio.timeout(20):
        assert await asyncio.get_running_loop().sock_recv(ends[0], 1) == b""
    assert records is not None
    assert [(r.busid, r.info.product_id) for r in records] == [("1-1", 1), ("2-1", 2)]
    assert records[0].configurations == len(DESCRIPTORS.configurations)


async def test_a_client_has_a_device_alone_and_leaves_it_for_the_next(
    guest: UsbipGuest, ends: Ends
) -> None:
    device = Device(1)
    await guest.attach(device)
    half = len(codec.import_request("1-1")) // 2
    request = codec.import_request("1-1")
    assert len(await ask(guest, ends, request[:half], request[half:])) == 320
    assert await ask(guest, ends, request) == codec.import_reply(None, 2)  # in use
    setup = bytes.fromhex("4001000000000000")
    head = (1, 5, 0x10001, 0, 0, 0, 0, 0, 0, 0)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ends[0], codec.CMD_SUBMIT.pack(*head, setup))
    assert len(await loop.sock_recv(ends[0], 100)) == 48
    ends[0].close()
    async with asyncio.timeout(20):
        while device.resets == 0:  # noqa: ASYNC110 - as the next one expects it
            await asyncio.sleep(0.01)
    assert len(await ask(guest, ends, request)) == 320


async def test_a_busid_that_is_not_there_is_refused(
    guest: UsbipGuest, ends: Ends
) -> None:
    answer = await ask(guest, ends, codec.import_request("1-1"))
    assert answer == codec.import_reply(None, 4)


async def test_who_says_nothing_is_hung_up_on(
    guest: UsbipGuest, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usbip, "REQUEST_TIMEOUT", 0.1)
    assert await ask(guest, ends, b"\x01") == b""
    assert not guest.callers


async def test_another_protocol_is_hung_up_on(guest: UsbipGuest, ends: Ends) -> None:
    assert await ask(guest, ends, b"GET / HT") == b""


async def test_callers_are_bounded(
    guest: UsbipGuest, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usbip, "MAX_CALLERS", 3)
    monkeypatch.setattr(usbip, "REQUEST_TIMEOUT", 100)  # that is not what ends it
    for _ in range(3):
        await call(guest, ends)
    async with asyncio.timeout(20):
        while len(guest.callers) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        sock = await call(guest, ends)
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""


async def test_ports_end(guest: UsbipGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usbip, "MAX_PORT", 2)
    for number in (1, 2):
        await guest.attach(Device(number))
    with pytest.raises(GuestError, match="2 devices are exported already"):
        await guest.attach(Device(3))


async def test_a_port_that_everybody_reaches_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = UsbipGuest("0.0.0.0:0")
    with caplog.at_level(logging.WARNING):
        await guest.start()
    await guest.aclose()
    assert "nobody is asked for a password" in caplog.text
    assert "0.0.0.0" in caplog.text


async def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        guest = UsbipGuest(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(GuestError, match="cannot listen at 127.0.0.1 port"):
            await guest.start()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ("127.0.0.1", 3240)),
        ("4000", ("127.0.0.1", 4000)),
        (":4000", ("127.0.0.1", 4000)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:3240", ("::1", 3240)),
    ],
)
def test_a_place(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text, 3240) == place


@pytest.mark.parametrize("text", ["host", "1:x", "65536", "::1", "1.2.3.4:"])
def test_no_place(text: str) -> None:
    with pytest.raises(GuestError, match="must be \\[ADDRESS:\\]PORT"):
        parse_place(text, 3240)


# ------------------------------------------------------------------- vhci ----


def test_the_drivers_status_is_read() -> None:
    ports = parse_status(SYSFS["status_text"])
    rows = SYSFS["status_rows"]
    assert [(p.number, p.state, p.is_super) for p in ports] == [
        (row["port"], row["status"], row["hub"] == "ss") for row in rows
    ]


@pytest.mark.parametrize("line", ["", "hs", "hs x y", "\0", "usb 0001 004"])
def test_lines_of_another_form_are_skipped(line: str) -> None:
    assert parse_status(f"{line}\nhs  0001 004 000\n") == [VhciPort(1, 4, False)]


def test_a_port_is_given_a_socket_as_the_driver_wants_it(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(SYSFS["status_text"])
    (tmp_path / "status.1").write_text("hub port\nhs  0016 004 000\n")
    driver = Vhci(tmp_path)
    assert [p.number for p in driver.ports()] == [0, 1, 8, 9, 16]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver.attach(1, theirs, 65538, 2)
        assert (tmp_path / "attach").read_text() == f"1 {theirs.fileno()} 65538 2"


async def test_a_kernel_without_the_driver_says_what_to_load(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="modprobe vhci-hcd"):
        await VhciGuest(driver=Vhci(tmp_path)).start()


async def test_a_speed_that_no_port_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("hs  0000 004 000\nss  0008 006 005\n")
    guest = VhciGuest(driver=Vhci(tmp_path))
    with pytest.raises(GuestError, match="all of its ports for this speed are in use"):
        await guest.attach(Other(1, Speed.SUPER))


class Driver(Vhci):
    """One port, and the kernel's end of its connection."""

    def __init__(self) -> None:
        super().__init__()
        self.theirs: socket.socket | None = None

    def ports(self) -> list[VhciPort]:
        is_used = False
        if self.theirs is not None:
            with contextlib.suppress(BlockingIOError):
                while self.theirs.recv(100, socket.MSG_DONTWAIT):
                    pass
                self.theirs.close()
                self.theirs = None
            is_used = self.theirs is not None
        return [VhciPort(0, 5 if is_used else FREE, is_super=False)]

    def attach(self, port: int, sock: socket.socket, devid: int, speed: int) -> None:
        self.theirs = sock.dup()


async def hang(*_: object, **__: object) -> None:
    """A loop whose connection is never made."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("is_made", [False, True])
async def test_a_device_that_goes_while_it_is_plugged_in_leaves_its_port(
    *, is_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had its port until the server ended."""
    guest = VhciGuest(driver=(driver := Driver()))
    if not is_made:
        monkeypatch.setattr(asyncio.BaseEventLoop, "connect_accepted_socket", hang)
    attaching = asyncio.ensure_future(guest.attach(Device()))
    await until(lambda: driver.theirs is not None)
    attaching.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([attaching])
    assert attaching.cancelled()
    assert [port.state for port in driver.ports()] == [FREE]
    assert guest._plugged == []


def test_vhci_has_no_address() -> None:
    with pytest.raises(GuestError, match="no address"):
        VhciGuest("1")
