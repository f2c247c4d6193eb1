"""What happens, as JSON and as lines of the log; the stream of the control socket."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.errors import ControlError, GuestError, ServerBusy
from rusb.rdp import notices
from rusb.rdp.security import Method
from rusb.rdp.standard import Encryption
from rusb.rdp.x224 import Protocol
from rusb.server import events
from rusb.server.event_log import KEPT, LOST, MAX_TEXT, EventLog
from rusb.server.machine import control as control_module
from rusb.server.machine.control import MAX_STREAMS, ControlServer, call, follow
from rusb.server.rdp_log import notice_lines
from rusb.server.release_log import BRING_USB, log_lines, terminal_lines
from rusb.server.vbox.lock import MachineLock
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from tests.support.rows import each_row
from tests.support.whole_path import Lab, machine, sessions_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
INFO = DeviceInfo(7, 0x1209, 1, product="Drive", speed=Speed.HIGH)
DEVICE = events.Subject(3, "u-1", INFO)


def listing(count: int, machine: str = "Lab") -> EventLog:
    found = EventLog(machine, lambda: 1795749169.123456)
    for number in range(count):
        found.add(events.FiltersChanged(number))
    return found


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in found]


# ---------------------------------------------------------------- the list ----


def test_the_form() -> None:
    found = listing(0)
    found.add(events.DeviceAttached(DEVICE, "usb-3", "port 3 on xhci.0", "admitted"))
    assert found.after(None) == [
        {
            "v": 1,
            "seq": 1,
            "time": "2026-11-27T03:12:49.123456Z",
            "event": "device.attached",
            "machine": "Lab",
            "client": 3,
            "uuid": "u-1",
            "id": "1209:0001",
            "product": "Drive",
            "device": "usb-3",
            "where": "port 3 on xhci.0",
            "verdict": "admitted",
        }
    ]


def test_what_is_for_the_log_only_is_not_in_it() -> None:
    found = listing(0)
    found.add(events.DeviceNoted(DEVICE, "a sentence"))
    assert (found.after(None), found.last) == ([], 0)


def test_only_what_is_asked_for() -> None:
    found = listing(5)
    assert numbers(found.after(None)) == numbers(found.after(0)) == [1, 2, 3, 4, 5]
    assert numbers(found.after(3)) == [4, 5]
    assert found.after(5) == []
    assert numbers(found.after(6)) == [1, 2, 3, 4, 5]  # of an earlier process


def test_it_is_bounded_and_says_what_is_lost() -> None:
    found = listing(KEPT + 7)
    assert len(found.after(None)) == KEPT
    assert numbers(found.after(7))[0] == 8
    lost, first, *rest = found.after(2)
    assert (lost["event"], lost["count"], lost["seq"]) == ("events.lost", 5, 7)
    assert (first["seq"], len(rest)) == (8, KEPT - 1)


def test_texts_of_peers_are_bounded() -> None:
    found = listing(0)
    found.add(events.DeviceRefused(DEVICE, "x" * 5000))
    assert len(found.after(None)[0]["verdict"]) == MAX_TEXT


def named() -> set[str]:
    others = {"Event", "Subject"}
    kinds = [getattr(events, name) for name in {*events.__all__} - others]
    found = {
        k.NAME for k in kinds if isinstance(k, type) and issubclass(k, events.Event)
    }
    return (found - {""}) | {LOST}


@pytest.mark.parametrize("paper", ["spec/events.md", "guide/services.md"])
def test_the_papers_have_every_event(paper: str) -> None:
    rows = re.findall(r"^\| (`[a-z]+\..*?) \|", (DOCS / paper).read_text("utf-8"), re.M)
    assert {name for row in rows for name in re.findall(r"`(.*?)`", row)} == named()


# ------------------------------------------------------------------- lines ----

CLIENT = ("10.0.0.7", "anna", "desk")

LINES: list[tuple[events.Event, list[str], list[str]]] = [
    (
        events.ServerStarted(3389, "IPv4 and IPv6"),
        ["VRDP: TCP server listening on port 3389 (IPv4 and IPv6)."],
        [],
    ),
    (events.ServerFailed("no port"), ["VRDP: no port"], []),
    (events.ServerStopped(), ["VRDP: TCP server closed."], []),
    (events.Warned("fix it"), ["VRDP: WARNING: fix it"], ["WARNING: fix it"]),
    (
        events.Crowded("192.0.2.1", 200),
        [
            "VRDP: 200 connections from 192.0.2.1 have not logged on yet: a new one"
            " from there was closed."
        ],
        [],
    ),
    (events.PlaceDenied("Full."), ["AUTH: Full. Access denied."], []),
    (
        events.OthersDisconnected(),
        ["AUTH: Multiple connections are not enabled. Disconnecting the others."],
        [],
    ),
    (
        events.ClientConnected(3, "2001:db8::1"),
        ["VRDP: New connection:", "VRDP: Connection opened (IPv6): 3"],
        [],
    ),
    (
        events.ClientAdmitted(3, *CLIENT),
        [],
        ["client 3: anna at 10.0.0.7 (desk) connected"],
    ),
    (
        events.ClientRefused(3, "10.0.0.7", "", "desk", "no"),
        [],
        ["client 3: someone at 10.0.0.7 (desk) refused: no"],
    ),
    (
        events.ClientLeft(3, "::1", "reset", 1.5, 9, "desk", "admitted"),
        ["VRDP: desk: reset", "VRDP: Connection closed: 3"],
        ["client 3: disconnected: reset"],
    ),
    (
        events.ClientLeft(3, "::1", "", 0, 9, "client 3", "waiting"),
        ["VRDP: Connection closed: 3"],
        ["client 3 at ::1: it disconnected before logging on"],
    ),
    (
        events.ClientLeft(3, "::1", "", 0, 0, "client 3", "silent"),
        ["VRDP: Connection closed: 3"],
        [],
    ),
    (
        events.WireAgreed(3, 3, 1, None),
        [
            "Remote USB: Received negotiate response. Flags 0x01.",
            "VRDP: remote USB protocol version 3.",
        ],
        [],
    ),
    (
        events.WireMissing(3, "URBDRC"),
        [
            "Remote USB: The client does not have the channel URBDRC.",
            f"Remote USB: {BRING_USB}",
        ],
        [],
    ),
    (
        events.DeviceListed(DEVICE),
        ["Remote USB: ++++ Vendor 1209. Product 0001. Name = [Drive]."],
        [],
    ),
    (
        events.DeviceRefused(DEVICE, "refused: there are no filters"),
        [f"Remote USB: {INFO}: refused: there are no filters"],
        [f"{INFO}: refused: there are no filters"],
    ),
    (
        events.Cure(DEVICE, "usbfilter add"),
        [f"Remote USB: to admit {INFO}: rusb usbfilter add"],
        [f"to admit {INFO}: rusb usbfilter add"],
    ),
    (
        events.Cure(DEVICE, "usbfilter add", is_bare=True),
        [
            f"Remote USB: to admit {INFO}: rusb usbfilter add; to keep that, also start"
            " rusb serve with --allow 1209:0001"
        ],
        [
            f"to admit {INFO}: rusb usbfilter add; to keep that, also start rusb serve"
            " with --allow 1209:0001"
        ],
    ),
    (
        events.DeviceUnfit(DEVICE, "no room"),
        [f"Remote USB: {INFO}: refused: no room"],
        [f"{INFO}: refused: no room"],
    ),
    (
        events.DeviceFailed(DEVICE, "usb-3", "no"),
        ["VUSB: Failed to attach 'usb-3 [proxy 1209:0001]': no"],
        [f"{INFO}: not attached: no"],
    ),
    (
        events.DeviceAttached(DEVICE, "usb-3", "xhci.0", "admitted by filter 0"),
        ["VUSB: Attached 'usb-3 [proxy 1209:0001]' to xhci.0 (HighSpeed)"],
        [f"{INFO}: in use by the guest, admitted by filter 0"],
    ),
    (
        events.DeviceDetached(events.Subject(None, "u", INFO), "host-1", "by hand"),
        [
            "VUSB: Detached 'host-1 [proxy 1209:0001]'",
            f"Host USB: {INFO} was detached: by hand",
        ],
        [f"{INFO}: detached: by hand"],
    ),
]


@each_row(("event", "log", "terminal"), LINES)
def test_lines(event: events.Event, log: list[str], terminal: list[str]) -> None:
    assert list(log_lines(event)) == log
    assert list(terminal_lines(event)) == terminal


NOTICES: list[tuple[notices.Notice, list[str]]] = [
    (
        notices.SecurityAsked(frozenset([Method.TLS]), protocols),
        ["VRDP: Policy: enhanced RDP security", f"VRDP: Client requested {wish}"],
    )
    for protocols, wish in (
        (Protocol.CREDSSP, "network level authentication (NLA) only"),
        (Protocol.CREDSSP | Protocol.TLS, "enhanced RDP security"),
        (0, "standard RDP security"),
        (0x40, "unsupported security 0x00000040"),
    )
]
NOTICES += [
    (
        notices.SecurityAsked(frozenset([Method.RDP]), 0),
        [
            "VRDP: Policy: standard RDP security",
            "VRDP: Client requested standard RDP security",
        ],
    ),
    (
        notices.SecurityAsked(frozenset(Method), 0),
        [
            "VRDP: Policy: negotiating RDP security",
            "VRDP: Client requested standard RDP security",
        ],
    ),
    (
        notices.SecurityChosen(Method.TLS),
        ["VRDP: Using enhanced RDP security"],
    ),
    (
        notices.SecurityChosen(Method.RDP),
        ["VRDP: Using standard RDP security"],
    ),
    (notices.EncryptionOffered(0x1B), ["VRDP: Methods 0x0000001b"]),
    (
        notices.ChannelAsked("vrdpusb", 1004, is_known=True),
        ["VRDP: Channel: [vrdpusb] [1004]. Accepted."],
    ),
    (
        notices.ChannelAsked("x", 1005, is_known=False),
        ["VRDP: Channel: [x] [1005]. Not supported."],
    ),
    (notices.UnknownBlock(0xC0FF), ["VRDP: Unsupported GCC block 0xC0FF"]),
    (
        notices.EncryptionChosen(Encryption.BITS_128),
        ["VRDP: Encryption: RC4, 128 bit"],
    ),
    (notices.EncryptionChosen(Encryption.NONE), ["VRDP: Encryption: none"]),
    (notices.X509Chosen(), ["VRDP: Certificate: X.509"]),
    (
        notices.ClientDescribed("rdesktop", 800, 600, 16),
        [
            "VRDP: Client type: rdesktop",
            "VRDP: Client screen: 800x600, 16 bit",
        ],
    ),
    (notices.DisconnectAsked(), ["VRDP: Client requested disconnect"]),
]


@each_row(("notice", "lines"), NOTICES)
def test_lines_of_a_connection(notice: notices.Notice, lines: list[str]) -> None:
    assert list(notice_lines(notice)) == lines


def test_where_usb_devices_cannot_come_from_is_said() -> None:
    (line,) = notice_lines(notices.UsbUnreachable())
    assert "MS-RDPEUSB" in line
    assert "rdesktop-vrdp -r usb" in line


# ------------------------------------------------------------------ stream ----


@pytest.fixture
async def happened() -> EventLog:
    return listing(2)


@pytest.fixture
async def control(tmp_path: Path, happened: EventLog) -> AsyncIterator[ControlServer]:
    path = tmp_path / "m.control"
    lock = MachineLock(path.with_suffix(".lock"))
    found = ControlServer(lambda: path, {}, lock, happened)
    async with asyncio.timeout(20):
        await found.start()
        yield found
        await found.aclose()


async def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_what_is_remembered_is_printed_and_that_is_all(
    control: ControlServer,
) -> None:
    found = [event async for event in follow(control.path, None, follows=False)]
    assert numbers(found) == [1, 2]
    found = [event async for event in follow(control.path, 1, follows=False)]
    assert numbers(found) == [2]


async def test_later_events_come_until_the_machine_is_off(
    control: ControlServer, happened: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "IDLE_TIMEOUT", 0.05)  # not for streams
    found: list[dict[str, Any]] = []

    async def read() -> None:
        found.extend([e async for e in follow(control.path, 1, follows=True)])

    reading = asyncio.ensure_future(read())
    await wait_for(lambda: len(control._streams) == 1)
    await asyncio.sleep(0.2)
    happened.add(events.ServerStopping())  # and the stream gets no turn
    await control.aclose()
    await reading
    assert numbers(found) == [2, 3]
    assert found[-1]["event"] == "server.stopping"


async def test_a_reader_that_goes_gives_its_place_to_another(
    control: ControlServer,
) -> None:
    readers = [await asyncio.open_unix_connection(control.path) for _ in range(4)]
    assert len(readers) == MAX_STREAMS
    for reader, writer in readers:
        writer.write(b'{"command": "events"}\n')
        assert json.loads(await reader.readline())["seq"] == 1
    with pytest.raises(ControlError, match="^4 programs already read"):
        _ = [e async for e in follow(control.path, None, follows=True)]
    readers[0][1].close()
    await wait_for(lambda: len(control._streams) == MAX_STREAMS - 1)
    found = [event async for event in follow(control.path, None, follows=False)]
    assert numbers(found) == [1, 2]
    for _, writer in readers:
        writer.close()


async def test_a_reader_that_does_not_read_is_dropped_and_nothing_piles_up(
    control: ControlServer, happened: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "IDLE_TIMEOUT", 0.3)
    reader, writer = await asyncio.open_unix_connection(control.path, limit=1024)
    writer.write(b'{"command": "events"}\n')
    await wait_for(lambda: len(control._streams) == 1)
    (sender,) = control._writers
    for _ in range(2 * KEPT):
        happened.add(events.DeviceRefused(DEVICE, "x" * MAX_TEXT))
        await asyncio.sleep(0)
        assert sender.transport.get_write_buffer_size() < 1 << 18
    await wait_for(lambda: not control._writers)
    assert not control._streams
    writer.close()
    del reader


async def test_a_reader_that_is_behind_learns_how_many_it_missed(
    control: ControlServer, happened: EventLog
) -> None:
    stream = follow(control.path, 0, follows=True)
    assert (await anext(stream))["seq"] == 1
    for number in range(KEPT + 20):  # without a turn for the stream
        happened.add(events.FiltersChanged(number))
    assert (await anext(stream))["seq"] == 2
    lost = await anext(stream)
    assert (lost["event"], lost["count"]) == ("events.lost", 20)
    assert (await anext(stream))["seq"] == lost["seq"] + 1 == 23
    await stream.aclose()


@pytest.mark.parametrize("since", [-1, "1", 1.5, True])
async def test_since_is_a_number(control: ControlServer, since: object) -> None:
    with pytest.raises(ControlError, match="since must be the number of an event"):
        await call(control.path, "events", since=since)


async def test_nobody_runs(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="is not running"):
        _ = [e async for e in follow(tmp_path / "x", None, follows=False)]


async def test_an_older_rusb_does_not_know_the_command(tmp_path: Path) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readline()
        words = json.dumps({"error": "a running machine has no command 'events'"})
        writer.write(words.encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "old")
    with pytest.raises(ControlError, match="^[^:]*has no command 'events'"):
        _ = [e async for e in follow(tmp_path / "old", None, follows=False)]
    server.close()


async def test_a_machine_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "ANSWER_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with pytest.raises(ControlError, match=r"sent no events within 0\.1 s"):
            _ = [e async for e in follow(tmp_path / "mute", None, follows=False)]


# ------------------------------------------------------------------ server ----


async def heard(lab: Lab, name: str, count: int = 1) -> list[dict[str, Any]]:
    """The events of a name, once there are so many."""

    def found() -> list[dict[str, Any]]:
        return [e for e in lab.server.happened.after(None) if e["event"] == name]

    await wait_for(lambda: len(found()) >= count)
    return found()


async def test_what_a_server_tells(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        (started,) = await heard(lab, "server.started")
        assert started["port"] == lab.server.port
        async with lab.client(EmulatedBackend(devices=[Loopback()])):
            (attached,) = await heard(lab, "device.attached")
            assert (attached["device"], attached["id"]) == ("usb-1", "1209:0004")
            with pytest.raises(ServerBusy):
                async with lab.client(EmulatedBackend(devices=[])):
                    pass
            (refused,) = await heard(lab, "client.refused")
            assert refused["client"] == 2
            assert refused["reason"] == "Multiple connections are not enabled."
            lab.server.set_filters([])
            (changed,) = await heard(lab, "filters.changed")
            assert changed["count"] == 0
            (detached,) = await heard(lab, "device.detached")
            assert detached["why"] == "refused: there are no filters"
            (verdict,) = await heard(lab, "device.refused")
            assert verdict["uuid"] == attached["uuid"]
        left = await heard(lab, "client.left", 2)
        assert {event["client"] for event in left} == {1, 2}
    assert (await heard(lab, "server.stopping"))[0]["seq"] == lab.server.happened.last


async def test_a_device_that_the_guest_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(device: object) -> str:
        raise GuestError("no port is left")

    lab = Lab(tmp_path, machine())
    monkeypatch.setattr(lab.guest, "attach", refuse)
    async with asyncio.timeout(20), lab.server:
        async with lab.client(EmulatedBackend(devices=[Loopback()])):
            (failed,) = await heard(lab, "device.failed")
            assert failed["why"] == "no port is left"
            (device,) = lab.server.devices()
            assert (device.attached, device.problem) == (False, "no port is left")


async def test_a_link_that_is_held_is_told_now_and_then(tmp_path: Path) -> None:
    """Not each time: a slow client changes its mind many times in a second."""
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        async with lab.client(EmulatedBackend(devices=[])):
            await heard(lab, "client.admitted")
            (session,) = sessions_of(lab.server)
            for is_high in (True, False) * 5:
                session._on_pressure(is_high)
            assert len(await heard(lab, "link.held")) == 1
            session._held_after = 0.0
            session._on_pressure(True)
            held = await heard(lab, "link.held", 2)
            assert [event["client"] for event in held] == [1, 1]
            session._on_pressure(False)
