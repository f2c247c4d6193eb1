"""What goes to another host of a client, as JSON; hostile forms of it (7.12)."""

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rusb.errors import ParseError
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import LaneState
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.listed_device import DeviceList, ListedDevice
from rusb.server.machine.teleport.clients import MAX_BYTES, from_json, to_json
from rusb.server.moving import AttachmentState, MovedClient, MovedDevice
from rusb.server.server import Server
from rusb.server.sessions import Owner
from rusb.server.state import ClientState
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from rusb.usb.urb import UrbStatus
from rusb.wire.usbredir import StreamState
from rusb.wire.vrdpusb import WireState
from tests.support.rows import each_row
from tests.support.whole_path import machine

INFO = DeviceInfo(
    7, 0x1209, 2, product="Keyboard", speed=Speed.FULL, port_path=(1, 2), remote=True
)
DEVICE = MovedDevice(
    7,
    "rusb-abcdef-1",
    AttachmentState(INFO, b"ab", (b"c",), ("product",), 0, 1, {0: 1}),
    StreamState(0x7E, 1, {0: 1}, {0x81: 5}, b"waiting"),
    b"unsent",
    {0x83: ((b"data", True, UrbStatus.OK), (b"", True, UrbStatus.STALL))},
)
CLIENT = MovedClient(
    bytes(16),
    bytes(32),
    7,
    Cookie(3, bytes(16)),
    Owner("anna", "", 0, "desk", ""),
    ClientState(
        *(3, "anna", "", "desk", "10.0.0.1", 2600),
        is_tls=True,
        since=1.5,
        sent=10,
        received=20,
        inputs=0,
    ),
    "10.0.0.1",
    1006,
    LaneState(9, 8, (b"kept",), (b"waits",)),
    WireState(3, True, False, 99, (INFO,), (7,)),
    (DEVICE,),
)


def test_both_directions_agree() -> None:
    assert from_json(json.loads(json.dumps(to_json(CLIENT)))) == CLIENT


def test_a_whole_number_of_seconds_is_one_of_seconds() -> None:
    found = from_json(changed("client.before.since", 2))
    assert repr(found.before.since) == "2.0"


def changed(path: str, value: Any) -> Any:
    """The form with a member changed; without it if *value* is Ellipsis."""
    found = copy.deepcopy(to_json(CLIENT))
    *way, last = path.split(".")
    part: Any = found
    for name in way:
        part = part[int(name)] if isinstance(part, list) else part[name]
    if value is ...:
        del part[last]
    else:
        part[int(last) if isinstance(part, list) else last] = value
    return found


@each_row(
    ("path", "value"),
    [
        ("version", 2),
        ("more", 1),
        ("client", None),
        ("client.session", "00"),
        ("client.session", "zz"),
        ("client.key", "00" * 33),
        ("client.cookie.secret", ""),
        ("client.features", -1),
        ("client.features", True),
        ("client.features", 1 << 63),
        ("client.channel", ...),
        ("client.other", 1),
        ("client.owner.user", 1),
        ("client.owner.user", "a" * 5000),
        ("client.before.since", "now"),
        ("client.lane.kept", {}),
        ("client.lane.kept", [""] * 5000),
        ("client.lane.kept.0", "00" * (MAX_BYTES + 1)),
        ("client.wire.opened", ["7"]),
        ("client.devices.0.of.info.speed", 99),
        ("client.devices.0.of.info.port_path", 3),
        ("client.devices.0.of.configuration", "one"),
        ("client.devices.0.of.alternates", {"x": 0}),
        ("client.devices.0.of.alternates", [0]),
        ("client.devices.0.brought", {"131": [["00", True]]}),
        ("client.devices.0.brought", {"131": [["00", True, 999]]}),
    ],
)
def test_another_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(ParseError):
        from_json(changed(path, value))


@pytest.mark.parametrize("value", [None, [], "x", {"version": 1}])
def test_what_is_no_client_is_refused(value: object) -> None:
    with pytest.raises(ParseError):
        from_json(value)


async def test_nothing_is_kept_of_a_client_that_cannot_go_on(tmp_path: Path) -> None:
    config = ServerConfig(machine(), log=str(tmp_path / "VBox.log"), state=tmp_path)
    server = Server(config, guest=LoopbackGuest())
    wire = replace(CLIENT.wire, version=9)
    with pytest.raises(ParseError, match="remote USB version 9"):
        server.arrive(replace(CLIENT, wire=wire))
    assert server._host.parking.find(CLIENT.session) is None
    assert server._host._devices == {}
    await server.aclose()


class Below:
    """What is below a device that is between two commands."""

    is_recalled = False

    def recall(self, is_quiet: Callable[[], bool] = lambda: True) -> None:
        self.is_recalled = is_quiet()

    def go_on(self) -> None:
        self.is_recalled = False


async def test_a_device_that_stays_at_once_is_not_recalled_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, stream, reads = ListedDevice(INFO, cast(DeviceList, None)), Below(), Below()
    monkeypatch.setattr(device, "_stream", lambda: ("usb-1", stream))
    monkeypatch.setattr(device, "_posted", reads)
    device.recall()
    assert stream.is_recalled
    device.go_on()
    await asyncio.sleep(0)
    assert not stream.is_recalled
    assert not reads.is_recalled
    device.recall()
    await asyncio.sleep(0)
    assert stream.is_recalled
    assert reads.is_recalled
