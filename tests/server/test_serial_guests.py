"""The guests that take serial ports: where these are, and what becomes of them."""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import serial

from rusb.errors import GuestError
from rusb.server.guests.pty import PtyGuest, default_folder
from rusb.server.guests.rfc2217 import MAX_ASKED, Rfc2217Guest
from rusb.usb.urb import Completion, Urb, UrbStatus
from tests.support.chips import Ch340, SerialChip
from tests.support.ftdi import Ftdi
from tests.support.guest_programs import Device, until
from tests.support.rusbserver import free_ports
from tests.support.serial_peers import Attached


@pytest.fixture
async def pty(tmp_path: Path) -> AsyncIterator[PtyGuest]:
    guest = PtyGuest(str(tmp_path / "tty"))
    await guest.start()
    yield guest
    await guest.aclose()


@pytest.fixture
async def tcp() -> AsyncIterator[Rfc2217Guest]:
    guest = Rfc2217Guest("0")
    await guest.start()
    yield guest
    await guest.aclose()


def link_of(guest: PtyGuest) -> str:
    (link,) = guest.folder.iterdir()
    return str(link)


@contextlib.asynccontextmanager
async def opened(path: str) -> AsyncIterator[int]:
    """The pseudo-terminal, once the guest has seen that it is open."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


# ------------------------------------------------------------------- places ----


async def test_a_terminal_has_a_name_that_stays_and_goes_with_its_device(
    pty: PtyGuest,
) -> None:
    for _ in range(3):
        device = Attached(Ftdi())
        where = await pty.attach(device)
        link = Path(link_of(pty))
        assert link.name == "usb-FTDI_FT232R_USB_UART_RUSB0001-if00"
        assert where == f"{link} ({os.readlink(link)})"
        assert stat.S_IMODE(os.stat(link).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(pty.folder).st_mode) == 0o700
        await pty.detach(device)
        await pty.detach(device)
        assert list(pty.folder.iterdir()) == []


async def test_names_are_fit_for_files_and_no_two_are_the_same(pty: PtyGuest) -> None:
    hostile = "../../etc/x\n\0 " + "é" * 300
    for number in range(3):
        await pty.attach(Attached(Ftdi(serial=hostile), number))
    names = sorted(path.name for path in pty.folder.iterdir())
    assert len(names) == 3
    base = min(names, key=len)
    assert {name.removeprefix(base) for name in names} == {"", "-2", "-3"}
    assert all(len(name) < 120 and name.startswith("usb-FTDI") for name in names)
    assert not any(set(name) & set("/\n\0 é") for name in names)


async def test_links_of_a_server_that_was_killed_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "tty"
    folder.mkdir(mode=0o700)
    (folder / "usb-old-if00").symlink_to("/dev/pts/0")
    (folder / "notes").write_text("mine")
    guest = PtyGuest(str(folder))
    await guest.start()
    assert [p.name for p in folder.iterdir()] == ["notes"]
    with pytest.raises(GuestError, match="another server keeps its links in"):
        await PtyGuest(str(folder)).start()
    await guest.aclose()
    again = PtyGuest(str(folder))
    await again.start()
    await again.aclose()


async def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(GuestError, match="belongs to another user"):
        await PtyGuest(str(tmp_path)).start()


def test_the_usual_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_folder() == Path("/run/user/7/rusb-tty")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_folder() == Path(f"/tmp/rusb-tty-{os.getuid()}")


async def test_what_is_no_serial_port_is_refused(
    pty: PtyGuest, tcp: Rfc2217Guest
) -> None:
    for guest in (pty, tcp):
        with pytest.raises(GuestError, match="no serial port of a kind.* vhci gives"):
            await guest.attach(Device())


@pytest.mark.parametrize("address", [None, "", "x", "99999", "host"])
def test_rfc2217_needs_a_port(address: str | None) -> None:
    with pytest.raises(GuestError):
        Rfc2217Guest(address)


async def test_each_serial_port_has_a_tcp_port(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = Rfc2217Guest("0")
    await guest.start()
    devices = [Attached(Ftdi(), n) for n in range(3)]
    places = [await guest.attach(device) for device in devices]
    assert places[0] == f"rfc2217://127.0.0.1:{guest.port}"
    assert len(set(places)) == 3
    await guest.detach(devices[0])
    assert await guest.attach(devices[0]) == places[0]
    assert caplog.text == ""
    await guest.aclose()
    await guest.aclose()


async def test_serial_ports_that_come_at_once_have_a_tcp_port_each() -> None:
    first = free_ports(3)
    guest = Rfc2217Guest(f"{first}")
    await guest.start()
    places = await asyncio.gather(
        *(guest.attach(Attached(Ftdi(), n)) for n in range(3))
    )
    assert places == [f"rfc2217://127.0.0.1:{first + n}" for n in range(3)]
    await guest.aclose()


async def test_a_tcp_port_that_is_taken_refuses_its_serial_port() -> None:
    with socket.socket() as taken:
        first = free_ports(2)
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        guest = Rfc2217Guest(f"{first}")
        await guest.start()
        assert await guest.attach(Attached(Ftdi(), 1)) == f"rfc2217://127.0.0.1:{first}"
        with pytest.raises(GuestError, match=f"cannot listen at .* port {first + 1}"):
            await guest.attach(Attached(Ftdi(), 2))
        await guest.aclose()


async def test_there_is_a_limit_to_tcp_ports(
    monkeypatch: pytest.MonkeyPatch, tcp: Rfc2217Guest
) -> None:
    monkeypatch.setattr("rusb.server.guests.rfc2217.MAX_PLACES", 2)
    for number in (1, 2):
        await tcp.attach(Attached(Ftdi(), number))
    with pytest.raises(GuestError, match="2 serial ports are in use already"):
        await tcp.attach(Attached(Ftdi(), 3))


async def test_pseudo_terminals_need_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(GuestError, match="the guest pty needs Linux"):
        await PtyGuest(str(tmp_path / "tty")).start()


async def test_another_address_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = Rfc2217Guest("0.0.0.0:0")
    await guest.start()
    assert "anyone who can reach it can use the devices" in caplog.text
    await guest.aclose()


# ----------------------------------------------------- open, closed, unplugged ----


async def test_a_terminal_is_open_at_the_chip_while_a_program_has_it(
    pty: PtyGuest,
) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await pty.attach(device)
    for _ in range(3):
        assert device.reading == 0
        async with opened(link_of(pty)):
            await until(lambda: chip.dtr and chip.rts)
            assert chip.settings == (9600, 8, "N", 1.0)
            assert device.reading
        await until(lambda: not chip.dtr and not chip.rts)
        await until(lambda: device.reading == 0)


async def test_a_program_may_leave_the_lines_as_they_are(pty: PtyGuest) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await pty.attach(device)
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        settings = termios.tcgetattr(fd)
        settings[2] &= ~termios.HUPCL
        termios.tcsetattr(fd, termios.TCSANOW, settings)
    await until(lambda: device.reading == 0)
    assert chip.dtr
    assert chip.rts


async def test_what_a_program_wrote_before_it_ended_is_sent(pty: PtyGuest) -> None:
    chip = Ftdi()
    chip.data_in = lambda endpoint, room: None  # type: ignore[method-assign]
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        os.write(fd, b"last words" * 100)
    await until(lambda: len(chip._waiting) == 1000)
    await until(lambda: not chip.dtr)


async def test_what_a_program_did_not_read_is_not_for_the_next_one(
    pty: PtyGuest,
) -> None:
    chip = Ftdi()
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        os.write(fd, b"stale")

        def waiting() -> int:
            found = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
            return int.from_bytes(found, "little")

        await until(lambda: waiting() == 5)
    await until(lambda: not chip.dtr)
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        assert waiting() == 0


async def test_settings_that_forget_packet_mode_are_followed(pty: PtyGuest) -> None:
    """A program that makes its settings from nothing clears EXTPROC."""
    chip = Ftdi()
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        speeds = {termios.B19200: 19200, termios.B4800: 4800, termios.B2400: 2400}
        for speed, baud in speeds.items():
            cflag = termios.CS8 | termios.CREAD
            settings: list[int | list[bytes | int]] = [0, 0, cflag, 0, speed, speed]
            settings.append([b"\0"] * 32)
            termios.tcsetattr(fd, termios.TCSANOW, settings)
            await until(lambda b=baud: abs(chip.baud - b) < 50)  # type: ignore[misc]


async def test_odd_parity_that_is_set_at_once_reaches_the_chip(pty: PtyGuest) -> None:
    chip = Ftdi()
    await pty.attach(Attached(chip))

    def program() -> None:
        with serial.Serial(link_of(pty), 19200, parity="O", stopbits=2) as port:
            port.write(b"x")
            assert port.read(1) == b"x"

    await asyncio.to_thread(program)
    assert chip.seen[b"x"][1:] == (8, "O", 2.0, "")


async def test_modem_lines_of_a_terminal_are_refused_by_linux(pty: PtyGuest) -> None:
    await pty.attach(Attached(Ftdi()))

    def program() -> int | None:
        with serial.Serial(link_of(pty)) as port:
            port.send_break(0.01)  # it vanishes
            with pytest.raises(OSError, match="ioctl") as caught:
                port.rts = False
            return caught.value.errno

    assert await asyncio.to_thread(program) == 25


async def test_a_terminal_hangs_up_when_its_device_goes(pty: PtyGuest) -> None:
    device = Attached(Ftdi())
    await pty.attach(device)
    async with opened(link_of(pty)) as fd:
        await until(lambda: device.reading)
        await pty.detach(device)
        with pytest.raises(OSError, match="I/O|Input/output"):
            os.write(fd, b"x")
        assert os.read(fd, 1) == b""


async def test_a_link_that_somebody_made_anew_is_left_alone(pty: PtyGuest) -> None:
    device = Attached(Ftdi())
    await pty.attach(device)
    link = Path(link_of(pty))
    os.unlink(link)
    os.symlink("elsewhere", link)
    await pty.detach(device)
    assert os.readlink(link) == "elsewhere"


async def test_a_client_is_hung_up_on_when_the_device_goes(tcp: Rfc2217Guest) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await tcp.attach(device)
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    await until(lambda: chip.dtr)
    await tcp.detach(device)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()
    _, free = await asyncio.open_connection("127.0.0.1", tcp.port)  # without device
    free.close()


async def test_one_client_has_a_port_at_a_time(tcp: Rfc2217Guest) -> None:
    chip = Ftdi()
    await tcp.attach(Attached(chip))
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    assert await reader.readexactly(3) == b"\xff\xfb\0"
    other, its = await asyncio.open_connection("127.0.0.1", tcp.port)
    with contextlib.suppress(ConnectionError):
        assert await other.read() == b""
    its.close()
    writer.write(b"hello")
    await until(lambda: len(chip._waiting) == 5 or chip.requests)
    writer.close()
    await until(lambda: not chip.dtr)
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    assert await reader.readexactly(3) == b"\xff\xfb\0"
    writer.close()


async def test_a_client_that_is_not_read_is_looked_at_once_in_a_while(
    tcp: Rfc2217Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip, loop = Ftdi(), asyncio.get_running_loop()
    await tcp.attach(Attached(chip))
    _, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    await until(lambda: chip.dtr)
    client, later = tcp._slots[0]._client, loop.call_later
    assert client is not None
    looks: list[asyncio.TimerHandle] = []

    def call_later(*what: Any) -> asyncio.TimerHandle:
        looks.append(later(*what))
        return looks[-1]

    monkeypatch.setattr(loop, "call_later", call_later)
    for _ in range(5):  # it reads, and does not, many times a second
        client.pause_writing()
        client.resume_writing()
    client.pause_writing()
    assert len(looks) == 6
    assert sum(not look.cancelled() for look in looks) == 1
    writer.close()
    client.resume_writing()
    await until(lambda: not chip.dtr)


# ------------------------------------------------------------- too much, too slow ----


class Talker(Ch340):
    """It says more and more, 8 MB a second."""

    said = due = 0
    timer: asyncio.TimerHandle | None = None

    def data_in(self, endpoint: int, room: int) -> bytes | None:
        if endpoint != self.IN:
            return None
        if self.due <= 0:
            if self.timer is None:
                loop = asyncio.get_running_loop()
                self.timer = loop.call_later(0.001, self.more)
            return None
        self.due -= 32
        self.said += 32
        return bytes(32)

    def more(self) -> None:
        self.timer = None
        self.due = 8192
        self.kick(self.IN)


def small(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def settles(count: Callable[[], int]) -> int:
    """Wait until a number has risen, and stays the same for a while; return it."""
    await until(lambda: count() > 0)
    before = -1
    async with asyncio.timeout(30):
        while before != count():
            before = count()
            await asyncio.sleep(0.3)
    return before


async def test_a_client_that_does_not_read_stops_the_device(tcp: Rfc2217Guest) -> None:
    chip = Talker()
    await tcp.attach(Attached(chip))
    with socket.socket() as client:
        small(client)
        client.connect(("127.0.0.1", tcp.port))
        client.setblocking(False)
        said = await settles(lambda: chip.said)
        assert 0 < said < 2 << 20  # what the kernel takes

        def goes_on() -> bool:
            with contextlib.suppress(BlockingIOError):
                client.recv(1 << 20)
            return chip.said > said

        await until(goes_on)


async def test_a_client_may_suspend_what_the_device_says(tcp: Rfc2217Guest) -> None:
    chip = Talker()
    await tcp.attach(Attached(chip))
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)

    async def drain() -> None:
        while await reader.read(1 << 16):
            pass

    draining = asyncio.create_task(drain())
    await until(lambda: chip.said)
    writer.write(bytes.fromhex("fffa2c08fff0"))
    quiet = await settles(lambda: chip.said)
    writer.write(bytes.fromhex("fffa2c09fff0"))
    await until(lambda: chip.said > quiet)
    writer.close()
    draining.cancel()


async def test_a_program_that_does_not_read_stops_the_device(pty: PtyGuest) -> None:
    chip = Talker()
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        said = await settles(lambda: chip.said)
        assert 0 < said < 1 << 20

        def goes_on() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 1 << 16)
            return chip.said > said

        await until(goes_on)


async def test_a_device_that_does_not_read_stops_the_client(tcp: Rfc2217Guest) -> None:
    chip = Ftdi()
    await tcp.attach(Attached(chip))
    with socket.create_connection(("127.0.0.1", tcp.port)) as client:
        client.setblocking(False)
        await until(lambda: chip.dtr)
        chip.is_dead = True
        sent = 0

        def send() -> int:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 16))
            return sent

        assert await settles(send) < 32 << 20
        client.setblocking(True)
    await until(lambda: not chip.dtr)  # it gives up what is stuck


async def test_a_device_that_does_not_read_stops_the_program(pty: PtyGuest) -> None:
    chip = Ftdi()
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        chip.is_dead = True
        sent = 0

        def send() -> int:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += os.write(fd, bytes(4096))
            return sent

        assert await settles(send) < 1 << 20
        chip.is_dead = False
        chip.kick(chip.OUT)
        await until(lambda: send() > 1 << 18 or os.read(fd, 1 << 16) is None)


async def test_a_client_that_asks_without_reading_is_not_served_on(
    tcp: Rfc2217Guest,
) -> None:
    """What it asks for, and the answers, do not pile up."""
    await tcp.attach(Attached(Ftdi()))
    with socket.socket() as client:
        small(client)
        client.connect(("127.0.0.1", tcp.port))
        client.setblocking(False)
        sent = 0

        def ask() -> int:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while sent < 64 << 20:
                    sent += client.send(b"\xff\xfa\x2c\x00\xff\xf0\xff\xfd\x05" * 4096)
            return sent

        assert await settles(ask) < 8 << 20


async def test_requests_do_not_pile_up_before_a_slow_device(tcp: Rfc2217Guest) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await tcp.attach(device)
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    await until(lambda: chip.dtr)
    held: list[tuple[Urb, Completion]] = []
    device.held = held
    count = 5000
    writer.write(bytes.fromhex("fffa2c0509fff0 fffa2c0508fff0") * (count // 2))
    await settles(lambda: len(held))
    assert len(held) <= MAX_ASKED
    device.held = None
    for urb, complete in held:
        device.submit(urb, complete)
    answers = 0
    async with asyncio.timeout(20):
        while answers < count:  # none is lost
            answers += (await reader.readuntil(b"\xff\xf0")).count(b"\xff\xfa\x2c\x69")
    writer.close()


async def test_a_subnegotiation_without_end_is_hung_up_on(
    tcp: Rfc2217Guest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chip = Ftdi()
    await tcp.attach(Attached(chip))
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
    writer.write(b"\xff\xfa" + bytes(1000))
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    assert "a subnegotiation of more than 256 bytes" in caplog.text
    await until(lambda: not chip.dtr)


async def test_settings_do_not_pile_up_before_a_slow_device(pty: PtyGuest) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await pty.attach(device)
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        held: list[tuple[Urb, Completion]] = []
        device.held = held
        settings = termios.tcgetattr(fd)
        speeds = termios.B9600, termios.B19200, termios.B4800
        for turn in range(1000):
            settings[4] = settings[5] = speeds[turn % 3]
            termios.tcsetattr(fd, termios.TCSANOW, settings)
            await asyncio.sleep(0)
        assert 50 < len(held) < 300
        settings[4] = settings[5] = termios.B38400
        termios.tcsetattr(fd, termios.TCSANOW, settings)
        device.held = None
        for urb, complete in held:
            device.submit(urb, complete)
        await until(lambda: chip.baud > 38000)


async def test_a_slow_network_stops_what_is_sent(pty: PtyGuest) -> None:
    chip = Ftdi()
    device = Attached(chip)
    await pty.attach(device)
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        device.press(True)
        os.write(fd, b"x")
        await asyncio.sleep(0.1)
        assert chip.seen == {}
        device.press(False)
        await until(lambda: b"x" in chip.seen)


# ------------------------------------------------------------------ bad devices ----


@pytest.mark.parametrize("status", [UrbStatus.IO_ERROR, UrbStatus.STALL])
async def test_reading_goes_on_after_an_error(pty: PtyGuest, status: UrbStatus) -> None:
    chip: SerialChip = Ftdi()
    device = Attached(chip)
    await pty.attach(device)
    device.fails = status
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        count = len(chip.requests)
        await asyncio.sleep(0.5)
        assert len(chip.requests) < count + 100  # it is not asked without end
        device.fails = None
        os.write(fd, b"x")
        await until(lambda: b"x" in chip.seen)

        def read() -> bytes:
            with contextlib.suppress(BlockingIOError):
                return os.read(fd, 1)
            return b""

        await until(lambda: read() == b"x")
        assert chip.settings[0] == 9600


async def test_a_device_that_refuses_its_settings_is_told_of(
    pty: PtyGuest, caplog: pytest.LogCaptureFixture
) -> None:
    chip = Ftdi()
    chip.vendor = lambda setup, data: None  # type: ignore[method-assign]
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)):
        await until(lambda: "did not take its settings" in caplog.text)


async def test_flushing_drops_what_waits_both_ways(pty: PtyGuest) -> None:
    chip = Ftdi()
    await pty.attach(Attached(chip))
    async with opened(link_of(pty)) as fd:
        await until(lambda: chip.dtr)
        before = len(chip.requests)
        termios.tcflush(fd, termios.TCIOFLUSH)
        await until(lambda: {(0, 1, 0), (0, 2, 0)} <= set(chip.requests[before:]))
        waiting = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
        assert waiting == (0,)
