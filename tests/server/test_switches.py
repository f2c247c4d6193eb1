"""Features that are switched off for clients (vrdp-server.md 4.4)."""

import struct
from pathlib import Path

import pytest

from rusb.client.backends.emulated import Loopback
from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.input import InputReader
from rusb.rdp.share import DataType
from rusb.server.display.status import status_frame
from rusb.server.state import ClientState
from rusb.usb.urb import UrbStatus
from tests.support.logon import Place
from tests.support.whole_path import say

KEYS = struct.pack("<HH", 2, 0) + b"".join(
    struct.pack("<IHHHH", 0, 4, flags, 0x1E, 0) for flags in (0, 0x8000)
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def usb_works(place: Place) -> None:
    """Move data, and so see that what was sent before has been handled."""
    (device,) = await place.guest.wait_for(1)
    result = await device.read(Loopback.SOURCE, 65536)
    assert (result.status, result.length) == (UrbStatus.OK, 65536)


def client_row(place: Place) -> ClientState:
    """What the server says of its only client."""
    (session,) = place.server._sessions
    return session.state()


@pytest.mark.parametrize("is_disabled", [False, True])
async def test_no_picture_without_a_display(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, is_disabled: bool
) -> None:
    drawn: list[str] = []

    def draw(
        width: int, height: int, name: str, devices: list[str], problem: str
    ) -> Frame:
        drawn.append(name)
        return status_frame(width, height, name, devices, problem)

    monkeypatch.setattr("rusb.server.display.status.status_frame", draw)
    monkeypatch.setattr("rusb.server.display.hub.TICK", 0.0)
    properties = {"Client/DisableDisplay": str(int(is_disabled))}
    async with place.serve(properties=properties), place.visit() as client:
        await usb_works(place)
        # 4.4, quirk: a client that allows updates does not switch them on
        say(client, DataType.SUPPRESS_OUTPUT, b"\1\0\0\0" + bytes(8))
        say(client, DataType.REFRESH_RECT, b"\1" + bytes(11))
        for _ in range(3):
            await usb_works(place)
        assert bool(drawn) == (not is_disabled)
        assert ("feature: Client/DisableDisplay" in place.log()) == is_disabled


@pytest.mark.parametrize("is_disabled", [False, True])
async def test_no_input_where_it_is_switched_off(
    place: Place, *, is_disabled: bool
) -> None:
    properties = {"Client/DisableInput": str(int(is_disabled))}
    assert len(InputReader().read_slow(KEYS, 800, 600)) == 2
    async with place.serve(properties=properties), place.visit() as client:
        say(client, DataType.INPUT, KEYS)
        await usb_works(place)
        assert client_row(place).inputs == (0 if is_disabled else 2)
        assert ("feature: Client/DisableInput" in place.log()) == is_disabled


async def test_a_whole_session_over_ipv6(place: Place) -> None:
    place.host = "::1"
    async with place.serve(), place.visit():
        await usb_works(place)
        assert client_row(place).address == "::1"
    assert "listening on port" in place.log()
    assert "(IPv6)." in place.log()
