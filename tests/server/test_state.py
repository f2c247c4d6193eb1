"""The state of a machine, as it travels between processes and versions."""

import dataclasses
import json
from typing import Any

import pytest

from rusb.errors import ControlError
from rusb.server.state import (
    ClientState,
    DeviceState,
    DisplayState,
    MachineState,
    Verdict,
    ViewState,
)
from rusb.server.vbox.settings import RemoteDisplay
from rusb.usb.device import DeviceInfo

CLIENT = ClientState(3, "anna", "", "desk", "::1", 2600, True, 1.5, 10, 20, 0)
VIEW = ViewState(1, 800, 600, 16, "compressed bitmaps", frames=3, bytes=4000)
INFO = DeviceInfo(7, 0x1209, 1, bcd_device=0x0100, product="Drive", port=2, remote=True)
DEVICE = DeviceState.of(
    INFO,
    uuid="u",
    address="REMOTEUSB0x00000007&0x00000003",
    attached=False,
    client=3,
    verdict=Verdict(True, 'admitted by filter 0 "any" (any device)', 0),
    problem="the guest has no free port",
    interfaces={0: {8, 3}},
)
STATE = MachineState(
    "running",
    DisplayState(
        RemoteDisplay(True, properties={"TCP/Ports": "3389"}),
        3389,
        clients=(CLIENT,),
        clients_so_far=4,
        last=dataclasses.replace(CLIENT, view=VIEW),
        screens=((1280, 800), (0, 0)),
    ),
    process=12,
    started=1.0,
    devices=(DEVICE,),
    forwards={"0": ("ssh,tcp,,2222,,22",)},
    links={"0": False},
    notes=("no KVM",),
)


def travelled(**changes: Any) -> Any:
    """The state as JSON brings it."""
    return json.loads(json.dumps(STATE.to_json())) | changes


@pytest.mark.parametrize(
    "state", [STATE, MachineState("stuck", DisplayState(RemoteDisplay()))]
)
def test_it_comes_back_as_it_was(state: MachineState) -> None:
    assert MachineState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_the_form() -> None:
    found = travelled()
    assert found["version"] == 1
    (device,) = found["devices"]
    assert device["verdict"]["admitted"]
    assert device["interfaces"] == [{"number": 0, "classes": [3, 8]}]
    assert found["display"]["clients"][0]["user"] == "anna"


def test_filters_see_the_same_device() -> None:
    again = DEVICE.info
    for name in ("vendor_id", "product_id", "bcd_device", "product", "port", "remote"):
        assert getattr(again, name) == getattr(INFO, name)


def test_what_a_newer_rusb_adds_is_ignored() -> None:
    found = travelled(weather="fine")
    found["display"]["clients"][0]["shoes"] = 43
    assert MachineState.from_json(found) == STATE


def test_what_an_older_rusb_lacks_has_its_default() -> None:
    found = travelled()
    del found["notes"], found["devices"][0]["problem"]
    again = MachineState.from_json(found)
    assert (again.notes, again.devices[0].problem) == ((), "")


def lacking(*names: str | int) -> Any:
    found = place = travelled()
    for name in names[:-1]:
        place = place[name]
    del place[names[-1]]
    return found


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (travelled(version=2), "in version 2, but this rusb reads version 1"),
        (lacking("version"), "without a version"),
        (travelled(version="1"), "without a version"),
        (travelled(version=True), "without a version"),
        ([], "without a version"),
        (None, "without a version"),
        (lacking("state"), "does not say state of the state"),
        (lacking("display"), "does not say display"),
        (lacking("devices", 0, "uuid"), "does not say uuid of the state.devices"),
        (travelled(process="12"), "says '12' for the state.process"),
        (travelled(process=True), "says True for the state.process"),
        (travelled(display=[]), r"says \[\] for the state.display"),
        (travelled(devices={}), "for the state.devices"),
        (travelled(devices=[1]), "says 1 for the state.devices"),
        (travelled(links={"0": 1}), "says 1 for the state.links.0"),
        (travelled(notes=[None]), "says None for the state.notes"),
    ],
)
def test_what_is_no_state_is_refused(value: Any, sentence: str) -> None:
    with pytest.raises(ControlError, match=sentence):
        MachineState.from_json(value)
