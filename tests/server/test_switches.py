"""Features that are switched off for clients (vrdp-server.md 4.4)."""

import asyncio
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
from tests.support.whole_path import say, sessions_of

FIELDS = ("screen", "width", "height", "depth", "form")

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
    monkeypatch.setattr("rusb.server.display.pace.TICK", 0.0)
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


async def test_who_brings_usb_alone_does_not_type(place: Place) -> None:
    async with place.serve(), place.visit(is_usb_only=True) as client:
        say(client, DataType.INPUT, KEYS)
        await usb_works(place)
        assert client_row(place).inputs == 0


async def test_a_whole_session_over_ipv6(place: Place) -> None:
    place.host = "::1"
    async with place.serve(), place.visit():
        await usb_works(place)
        assert client_row(place).address == "::1"
    assert "listening on port" in place.log()
    assert "(IPv6)." in place.log()


SWITCHES = [
    (switch, family)
    for switch in ("Display", "Input")
    for family in ("property", "VRDE", "VRDP")
]


@pytest.mark.parametrize(("feature", "family"), SWITCHES)
async def test_a_switch_counts_in_a_session_that_runs(
    place: Place, feature: str, family: str
) -> None:
    async with place.serve() as server, place.visit() as client:
        machine = server.machine
        pairs = machine.extra_data
        name = f"{family}/Feature/Client/Disable{feature}"
        if family == "property":
            pairs = machine.remote_display.properties
            name = f"Client/Disable{feature}"
        say(client, DataType.SUPPRESS_OUTPUT, b"\1\0\0\0" + bytes(8))
        (session,) = sessions_of(server)
        viewer = session.viewer
        assert viewer is not None

        async def settled() -> None:
            while not viewer.frames or viewer.is_damaged or viewer.is_busy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        def count() -> int:
            return viewer.frames if feature == "Display" else client_row(place).inputs

        async def ask() -> int:
            """Ask for the picture, and type; return how often there was some before."""
            before = count()
            viewer.refresh()
            say(client, DataType.INPUT, KEYS)
            await usb_works(place)
            return before

        async def does_it() -> None:
            """The picture is sent again, or keys are counted."""
            before = await ask()
            while count() <= before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await settled()
        await does_it()
        pairs[name] = "1"
        server.settings_changed()
        before = await ask()
        await asyncio.sleep(0.4)
        assert count() == before
        assert bool(viewer.state().form) == (feature != "Display")
        pairs[name] = "0"
        server.settings_changed()
        await settled()
        await does_it()
        line = f"VRDP: feature: Client/Disable{feature}"
        assert place.log().count(line) == 2
        assert place.log().count(f"{line} no longer") == 1


async def test_what_is_held_is_released_when_input_is_switched_off(
    place: Place,
) -> None:
    async with place.serve() as server, place.visit() as client:
        (session,) = sessions_of(server)
        assert session.viewer is not None
        say(client, DataType.INPUT, b"\1\0\0\0" + KEYS[4:16])  # pressed, not released
        await usb_works(place)
        keyboard = session.viewer.hub.keyboard
        assert keyboard._held
        server.machine.remote_display.properties["Client/DisableInput"] = "1"
        server.settings_changed()
        assert not keyboard._held


async def test_what_a_client_sees_is_told(place: Place) -> None:
    async with place.serve() as server, place.visit() as client:
        say(client, DataType.SUPPRESS_OUTPUT, b"\1\0\0\0" + bytes(8))
        (session,) = sessions_of(server)
        while not (view := session.state().view) or not view.frames:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert view.bytes > 1000
        wanted = 0, 800, 600, 16, "compressed bitmaps"
        assert (view.screen, view.width, view.height, view.depth, view.form) == wanted
        shown = [e for e in server.happened.after(None) if e["event"] == "screen.shown"]
        assert [tuple(shown[0][k] for k in FIELDS) for _ in shown] == [wanted]
