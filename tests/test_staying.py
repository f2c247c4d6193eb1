"""A machine has gone to another host, and a client of its is not asked to follow: what
its user is told (docs/spec/teleport.md 7.11)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.events import DeviceOffered, SessionEvent, SessionStays
from rusb.client.session import ClientSession, connect
from rusb.server.elsewhere import Elsewhere
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.breaking import until
from tests.support.whole_path import Lab, machine, stream_of

THERE = Elsewhere("192.0.2.7", 3390, bytes(32))


@contextlib.asynccontextmanager
async def plugged(
    lab: Lab, events: list[SessionEvent], **changes: object
) -> AsyncIterator[ClientSession]:
    """A client as a user has it, whose device the guest uses."""
    async with asyncio.timeout(20), lab.server:
        config = replace(lab.config(), reconnect=True, **changes)  # type: ignore[arg-type]
        async with connect(
            config,
            backends=[EmulatedBackend(devices=[Loopback()])],
            on_event=events.append,
        ) as session:
            await lab.guest.wait_for(1)
            yield session


def stays(events: list[SessionEvent]) -> list[str]:
    return [str(event) for event in events if isinstance(event, SessionStays)]


@pytest.mark.parametrize(
    ("wire", "there", "why", "logged"),
    [
        ("rdpeusb", THERE, "MS-RDPEUSB", "over another wire than vrdpusb"),
        ("vrdpusb", replace(THERE, port=0), "no remote display", "no remote display"),
        ("vrdpusb", replace(THERE, certificate=b""), "has no TLS", "has no TLS"),
    ],
)
async def test_it_is_said_at_the_clients_terminal_why(
    wire: str, there: Elsewhere, why: str, logged: str, tmp_path: Path
) -> None:
    lab = Lab(tmp_path, machine(), wires=("vrdpusb", "rdpeusb"))
    events = list[SessionEvent]()
    async with plugged(lab, events, wires=(wire,)) as session:
        lab.server.invite(there, lambda usb: None)
        await until(lambda: bool(stays(events)))
        (line,) = stays(events)
        assert f"has moved to {there}, but" in line
        assert why in line
        assert f"connect to {there};" in line
        await lab.wait_log("Remote USB: client 1 stays: ")
        assert logged in lab.log()
        assert session.is_connected


async def test_a_device_that_cannot_move_is_named(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    events = list[SessionEvent]()
    async with plugged(lab, events):
        lab.server.invite(THERE, lambda usb: None)
        await until(lambda: bool(stays(events)))
        (offered,) = (e for e in events if isinstance(e, DeviceOffered))
        assert f"everything on: {offered.device} is not at rest." in stays(events)[0]


async def test_a_server_without_a_certificate_tells_nothing_of_other_hosts(
    tmp_path: Path,
) -> None:
    display = RemoteDisplay(properties={"Security/Method": "RDP"})
    lab = Lab(tmp_path, machine(remote_display=display), wires=("rdpeusb",))
    events = list[SessionEvent]()
    async with plugged(lab, events, security=("rdp",)) as session:
        before = stream_of(session).bytes_received
        lab.server.invite(THERE, lambda usb: None)
        await until(lambda: stream_of(session).bytes_received > before)
        assert stays(events) == []
