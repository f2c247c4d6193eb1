"""``usbfilter explain``: the reasons, and commands that do turn the decision round."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.cli.vbox._common import machine_of
from rusb.cli.vbox._explain import Candidate, candidates, explain
from rusb.errors import RusbError
from rusb.filters.engine import decide
from rusb.filters.model import Filter
from rusb.server.state import DeviceState, DisplayState, InterfaceState, MachineState
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import Machine, RemoteDisplay
from rusb.usb.device import DeviceInfo
from tests.support.vbox import Vbox, vbox_home

STICK = DeviceInfo(
    0, 0x0951, 0x1666, manufacturer="Kingston", product="DataTraveler", remote=True
)
TRAVELER = DeviceState(
    "11111111-2222-3333-4444-555555555555",
    "REMOTEUSB0x00000001&0x00000002",
    0x0951,
    0x1666,
    0x0100,
    manufacturer="Kingston",
    product="Data\x1b[31mTraveler",
    port=2,
    attached=True,
    client=2,
)
LIVE = MachineState("running", DisplayState(RemoteDisplay()), devices=(TRAVELER,))


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Vbox]:
    with vbox_home(tmp_path, monkeypatch):
        made = Vbox(tmp_path, capsys)
        made("createvm --name 'My Lab' --register")
        made("modifyvm 'My Lab' --usb-xhci on")
        yield made


FILTERS = [
    "--name a --vendorid 1234",
    "--name b --vendorid 0951 --productid 1665",
    "--name c --vendorid 0951 --active no",
    "--name d --vendorid 0951 --remote no",
    "--name e --manufacturer King* --product Data?raveler --serialnumber 1",
    "--name 'any device'",
]


@pytest.mark.parametrize("options", FILTERS)
def test_what_it_says_to_do_turns_the_decision_round(home: Vbox, options: str) -> None:
    home(f"usbfilter add 0 --target 'My Lab' {options}")
    machine = Registry().find("My Lab").machine
    assert machine is not None
    is_admitted = decide(machine.filters, STICK).matched
    explain(machine, [Candidate(STICK, "remote")])
    said = home.capsys.readouterr().out
    assert ("    admitted\n" in said) == is_admitted
    cures = re.findall(r"^ +rusb (usbfilter .*)$", said, re.MULTILINE)
    assert cures
    before = home.file("My Lab")
    for cure in cures:
        home(cure)
        changed = Registry().find("My Lab").machine
        assert changed is not None
        assert decide(changed.filters, STICK).matched != is_admitted, cure
        Registry().find("My Lab").path.write_text(before)


def test_every_filter_that_admits_is_named_to_keep_a_device_out(home: Vbox) -> None:
    for name in "abc":
        home(f"usbfilter add 9 --target 'My Lab' --name {name} --vendorid 0951")
    machine = Registry().find("My Lab").machine
    assert machine is not None
    explain(machine, [Candidate(STICK, "remote")])
    cures = re.findall(r"^ +rusb (usbfilter .*)$", home.capsys.readouterr().out, re.M)
    assert len(cures) == 3
    for cure in cures:
        home(cure)
    changed = Registry().find("My Lab").machine
    assert changed is not None
    assert not decide(changed.filters, STICK).matched


def test_without_a_controller_the_cure_is_a_controller(home: Vbox) -> None:
    home("modifyvm 'My Lab' --usb-xhci off")
    said = home("usbfilter explain 'My Lab' 1209:0001")
    assert "no USB controller" in said
    (cure,) = set(re.findall(r"^ +rusb (modifyvm .*)$", said, re.MULTILINE))
    home(cure)
    assert "no USB controller" not in home("usbfilter explain 'My Lab' 1209:0001")


def test_devices_of_this_machine_and_of_clients_are_asked_for(home: Vbox) -> None:
    found = candidates(LIVE, None)
    assert [c.where for c in found] == ["local", "remote"]
    local, remote = found
    assert not local.info.remote
    assert remote.info.remote
    assert remote.is_attached
    for name in (*remote.names, remote.names[0].upper(), "0951:1666"):
        assert candidates(LIVE, name) == [remote]
    for name in local.names:
        assert candidates(LIVE, name) == [local]
    there = candidates(None, "1209:0099")
    assert [(c.where, c.info.remote) for c in there] == [
        ("hypothetical", True),
        ("hypothetical", False),
    ]


@pytest.mark.parametrize("text", ["stick", "1209", "1209:", ":1", "10000:1", "-1:1"])
def test_what_is_no_device_is_an_error(home: Vbox, text: str) -> None:
    with pytest.raises(RusbError, match="is not a device"):
        candidates(None, text)


def test_what_a_device_says_does_not_reach_the_terminal_raw(
    capsys: pytest.CaptureFixture[str], home: Vbox
) -> None:
    machine = Machine("M", usb_controllers=("XHCI",))
    explain(machine, candidates(LIVE, "0951:1666"))
    assert "\x1b" not in capsys.readouterr().out


def test_a_vendor_of_zero_has_no_cure(home: Vbox) -> None:
    machine = Machine("M", usb_controllers=("XHCI",), filters=(Filter("any"),))
    info = DeviceInfo(0, 0, 1, remote=True)
    explain(machine, [Candidate(info, "remote")], is_json=True)
    (row,) = json.loads(home.capsys.readouterr().out)
    assert (row["admitted"], row["change"]) == (False, [])
    assert "never matches" in row["reasons"][0]


def test_a_plan_is_compared_with_what_is(home: Vbox) -> None:
    machine = Machine("M", usb_controllers=("XHCI",))
    planned = [Filter("new", vendor_id="0951")]
    explain(machine, [Candidate(STICK, "remote")], planned=planned, is_json=True)
    (row,) = json.loads(home.capsys.readouterr().out)
    assert (row["now"]["admitted"], row["then"]["admitted"]) == (False, True)
    assert row["then"]["filter"] == 0


def test_a_device_in_use_is_told_apart(home: Vbox) -> None:
    machine = Machine("M", usb_controllers=("XHCI",), filters=(Filter("any"),))
    local = DeviceInfo(0, 0x0951, 0x1666)
    explain(machine, [Candidate(local, "local", is_busy=True, names=("u", "001/002"))])
    said = home.capsys.readouterr().out
    assert "the host uses the device, and the filter does not name it" in said
    assert shlex.split("usbattach 001/002")[1] in said


def test_masks_and_classes_of_interfaces_are_told(home: Vbox) -> None:
    home("usbfilter add 0 --target 'My Lab' --name disks --vendorid 0951 -M 2")
    key = "rusb/Filter/disks/InterfaceClass"
    home.fails(f"setextradata 'My Lab' {key} 8,3", "interfaceClass '8,3'", status=1)
    home(f"setextradata 'My Lab' {key} 08")
    output = home("usbfilter explain 'My Lab' 0951:1666")
    assert 'filter 0 "disks" (vendorId 0951, interfaceClass 0008) admits it' in output
    assert "interface 1 is to be hidden from the guest (maskedInterfaces 0x2)" in output
    assert "its interfaces are not known yet" in output
    machine = machine_of(Registry().find("My Lab"))
    read = InterfaceState(0, (8,)), InterfaceState(2, (3,))
    live = replace(LIVE, devices=(replace(TRAVELER, interfaces=read),))
    (device,) = candidates(live, "0951:1666")
    explain(machine, [device], is_json=True)
    (row,) = json.loads(home.capsys.readouterr().out)
    assert not row["admitted"]
    assert "interfaceClass wanted 0008, interface 2 has 0003" in row["reasons"][0]


def test_what_the_filters_admit_and_the_guest_lacks_says_why(
    home: Vbox, capsys: pytest.CaptureFixture[str]
) -> None:
    device = replace(TRAVELER, attached=False, problem="no free port")
    machine = Machine("M", usb_controllers=("XHCI",), filters=(Filter("any"),))
    explain(machine, candidates(replace(LIVE, devices=(device,)), "0951:1666"))
    sentence = "it is admitted, but not attached: no free port\n"
    assert sentence in capsys.readouterr().out
