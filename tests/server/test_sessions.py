"""The contract of a session: the server needs to know no more of a client."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from rusb.filters.model import Filter
from rusb.server.guests.base import AttachedDevice
from rusb.server.server import Server
from tests.support.sessions import PlainSession
from tests.support.whole_path import Lab, machine


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with asyncio.timeout(20), Lab(tmp_path, machine()).server as found:
        yield found


def join(
    server: Server,
    number: int,
    address: str = "",
    user: str = "anna",
    *,
    is_usb_only: bool = False,
) -> PlainSession:
    """A client of another kind connects, and logs on if it may."""
    address = address or f"192.0.2.{number}"
    session = PlainSession(number, address, user=user, is_usb_only=is_usb_only)
    assert server._host.admission.welcome(session)
    session.log_on()
    if server._host.admission.admit(session):
        session.disconnect(1)
    return session


async def test_the_single_connection_rule(server: Server) -> None:
    first, second = join(server, 1), join(server, 2)
    assert (first.is_logged_on, second.is_logged_on) == (True, False)
    server.machine.remote_display.reuse_single_connection = True
    third = join(server, 3)
    assert (first.is_logged_on, third.is_logged_on) == (False, True)
    assert first.told == ["disconnected: 1"]


@pytest.mark.parametrize("is_usb_first", [True, False])
@pytest.mark.parametrize(
    ("auth", "address", "user", "may_stay"),
    [
        ("External", "192.0.2.1", "anna", True),
        ("External", "192.0.2.1", "ben", False),
        ("External", "192.0.2.2", "anna", False),
        ("Null", "192.0.2.1", "ben", True),  # nobody has shown who he is
        ("Null", "192.0.2.2", "anna", False),
    ],
)
async def test_a_viewer_and_usb_beside_it_are_one_client(
    server: Server,
    is_usb_first: bool,
    auth: str,
    address: str,
    user: str,
    may_stay: bool,
) -> None:
    server.machine.remote_display.auth_type = auth
    first = join(server, 1, is_usb_only=is_usb_first)
    second = join(server, 2, address, user, is_usb_only=not is_usb_first)
    assert first.is_logged_on
    assert second.is_logged_on == may_stay


async def test_who_has_another_half(server: Server) -> None:
    usb = join(server, 1, "192.0.2.1", is_usb_only=True)
    assert not server._host.admission.has_other_half(usb)
    viewer = join(server, 2, "192.0.2.1")
    for session in (usb, viewer):
        assert server._host.admission.has_other_half(session)
    usb.disconnect(1)
    assert not server._host.admission.has_other_half(viewer)


async def test_one_client_has_one_viewer_and_one_connection_for_usb(
    server: Server,
) -> None:
    join(server, 1, "192.0.2.1", is_usb_only=True)
    viewer = join(server, 2, "192.0.2.1")
    for is_usb_only in (True, False):
        assert not join(server, 3, "192.0.2.1", is_usb_only=is_usb_only).is_logged_on
    server.machine.remote_display.reuse_single_connection = True
    other = join(server, 4, "192.0.2.1")
    left = [session.number for session in server._sessions if session.is_logged_on]
    assert left == [1, 4]  # another viewer replaces the viewer alone
    assert viewer.told == ["disconnected: 1"]
    assert other.told == []
    join(server, 5)
    left = [session.number for session in server._sessions if session.is_logged_on]
    assert left == [5]


async def test_filters(server: Server) -> None:
    session = join(server, 1)
    server.set_filters([Filter("new")])
    assert session.told == ["other filters"]


async def test_a_loss_by_the_guest_is_told_until_somebody_has_the_device(
    server: Server,
) -> None:
    server.machine.remote_display.allow_multi_connection = True
    first, second, third = (join(server, number) for number in (1, 2, 3))
    device = cast(AttachedDevice, object())
    second.plugged.append(device)
    server._sessions.lost_by_guest(device, "it hung")
    assert [s.told for s in (first, second)] == [["asked: it hung"]] * 2
    assert third.told == []


async def test_state(server: Server) -> None:
    server.machine.remote_display.allow_multi_connection = True
    first, second = join(server, 1), join(server, 2)
    state = server.state()
    assert [client.number for client in state.clients] == [1, 2]
    assert (state.clients_so_far, state.sent_total, state.last) == (2, 20, None)
    assert [device.uuid for device in server.devices()] == ["u1", "u2"]
    first.disconnect(0)
    server._sessions.ended(first)
    state = server.state()
    assert [client.number for client in state.clients] == [2]
    assert state.last is not None
    assert state.last.ended is not None
    assert (state.last.number, state.sent_total, state.received_total) == (1, 20, 40)
    assert len(server._sessions) == 1
    assert second.is_logged_on


async def test_the_end_of_the_server(server: Server) -> None:
    session = join(server, 1)
    await server.aclose()
    assert session.told == ["disconnected: 1", "ended"]
