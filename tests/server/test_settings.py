"""Reading ``.vbox`` files: the examples of filters.md 2.2, versions, hostile input."""

import os
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox.document import MAX_SIZE
from rusb.server.vbox.settings import Machine, RemoteDisplay, load_machine

DATA = Path(__file__).with_name("data")


def vbox(folder: Path, inside: str = "", version: str = "1.18-linux") -> Path:
    """Write a machine whose hardware is *inside*."""
    path = folder / "m.vbox"
    path.write_text(
        f'<VirtualBox xmlns="http://www.virtualbox.org/" version="{version}">'
        f'<Machine name="M" uuid="{{1}}"><Hardware>{inside}</Hardware></Machine>'
        "</VirtualBox>"
    )
    return path


def test_the_example_of_version_1_18() -> None:
    machine = load_machine(DATA / "spec-1.18.vbox")
    assert machine.name == "Lab Server"
    assert machine.uuid == "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a701"
    assert (machine.os_type, machine.version) == ("Debian_64", (1, 18))
    assert machine.usb_controllers == ("OHCI", "EHCI")
    assert [f.name for f in machine.filters] == [
        "Dongle at the client",
        "Camera, video part hidden",
        "Any stick by Kingston",
        "Mouse on the host",
    ]
    assert machine.filters[1].masked_interfaces == 3
    assert (machine.filters[3].active, machine.filters[3].wants_remote) == (
        False,
        False,
    )
    display = machine.remote_display
    assert (display.enabled, display.auth_type) == (True, "External")
    assert (display.auth_timeout, display.auth_library) == (10000, "VBoxAuthSimple")
    assert display.allow_multi_connection
    assert not display.reuse_single_connection
    assert display.property("TCP/Ports") == "5000,5010-5012"
    assert display.property("Security/Method") == "TLS"
    assert display.property("Client/DisableUSB") == ""
    assert machine.extra_data["VRDP/Feature/Client/DisableAudio"] == "1"
    assert machine.feature_disabled("Audio")
    assert machine.feature_disabled("Clipboard")
    assert not machine.feature_disabled("USB")


def test_the_example_of_version_1_12_is_enabled_by_default() -> None:
    machine = load_machine(DATA / "spec-1.12.vbox")
    assert machine.usb_controllers == ("OHCI", "EHCI")
    assert machine.remote_display.enabled
    assert machine.filters[0].wants_remote


def test_the_example_of_version_1_10_turns_attributes_into_properties() -> None:
    machine = load_machine(DATA / "spec-1.10.vbox")
    assert machine.usb_controllers == ("OHCI",)
    assert machine.remote_display.properties == {
        "TCP/Ports": "5000,5010-5012",
        "TCP/Address": "192.0.2.10",
        "VideoChannel/Enabled": "true",
        "VideoChannel/Quality": "75",
    }
    assert machine.feature_disabled("USB")


def test_version_1_15_ignores_the_old_element_and_incomplete_filters() -> None:
    machine = load_machine(DATA / "xhci-1.15.vbox")
    assert machine.usb_controllers == ("XHCI",)
    assert [(f.name, f.vendor_id) for f in machine.filters] == [("kept", "046D")]


def test_the_global_file_is_not_a_machine() -> None:
    with pytest.raises(SettingsError, match="global settings"):
        load_machine(DATA / "spec-global.xml")


def test_d5_an_old_controller_without_enabledehci_gets_ehci(tmp_path: Path) -> None:
    path = vbox(tmp_path, '<USBController enabled="true"/>', "1.9-linux")
    assert load_machine(path).usb_controllers == ("OHCI", "EHCI")


@pytest.mark.parametrize(
    ("version", "enabled"), [("1.15-linux", True), ("1.16-linux", False)]
)
def test_the_default_of_enabled_changed_with_1_16(
    tmp_path: Path, version: str, enabled: bool
) -> None:
    assert load_machine(vbox(tmp_path, "", version)).remote_display.enabled is enabled


def test_d1_an_expression_is_kept_as_it_was_entered(tmp_path: Path) -> None:
    path = vbox(
        tmp_path,
        "<USB><DeviceFilters><DeviceFilter name='f' active='true'"
        " productId='0x10-0x20|5'/></DeviceFilters></USB>",
    )
    (found,) = load_machine(path).filters
    assert found.product_id == "0x10-0x20|5"


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        (
            "<USB><DeviceFilters><DeviceFilter name='bad one' active='true'"
            " vendorId='12345'/></DeviceFilters></USB>",
            'line 1: USB filter 0 "bad one": vendorId',
        ),
        (
            "<USB><Controllers><Controller name='x' type='UHCI'/></Controllers></USB>",
            "USB controller type 'UHCI'",
        ),
        ("<RemoteDisplay authType='Magic'/>", "authType 'Magic'"),
        (
            "<RemoteDisplay><VRDEProperties><Property name='x'/></VRDEProperties>"
            "</RemoteDisplay>",
            "needs both name and value",
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, inside: str, sentence: str) -> None:
    path = vbox(tmp_path, inside)
    with pytest.raises(SettingsError) as caught:
        load_machine(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "version", ["", "1", "1.2-linux", "1.x", "x.y", "\u0661.\u0663", "1.18.1", "-1.3"]
)
def test_versions_that_cannot_be_read(tmp_path: Path, version: str) -> None:
    with pytest.raises(SettingsError, match="version"):
        load_machine(vbox(tmp_path, "", version))


@pytest.mark.parametrize("minor", range(3, 21))
def test_versions_that_are_read(tmp_path: Path, minor: int) -> None:
    inside = (
        "<USBController enabled='1' enabledEhci='yes'>"
        "<DeviceFilter name='old' active='1' vendorid='46d'/></USBController>"
        "<USB><Controllers><Controller name='OHCI' type='OHCI'/></Controllers>"
        "<DeviceFilters><DeviceFilter name='new' active='true'/></DeviceFilters></USB>"
    )
    machine = load_machine(vbox(tmp_path, inside, f"1.{minor}-solaris"))
    assert machine.version == (1, minor)
    old = minor <= 14  # filters.md 2.3: both forms up to 1.14
    assert machine.usb_controllers == (("OHCI", "EHCI") if old else ("OHCI",))
    assert [f.name for f in machine.filters] == (["new", "old"] if old else ["new"])
    assert machine.remote_display.enabled is (minor < 16)
    assert not machine.note


@pytest.mark.parametrize("version", ["1.21-linux", "1.100", "2.0-linux", "9.9"])
def test_newer_versions_are_read_with_a_note(tmp_path: Path, version: str) -> None:
    inside = "<New/><USBController enabled='true'/><Memory RAMSize='5' new='x'/>"
    machine = load_machine(vbox(tmp_path, inside, version))
    assert machine.version > (1, 20)
    assert machine.usb_controllers == ()
    assert not machine.remote_display.enabled
    assert "is newer than 1.20" in machine.note


def test_what_is_of_another_namespace_does_not_count(tmp_path: Path) -> None:
    inside = (
        "<f:RemoteDisplay xmlns:f='urn:f' enabled='true'/><x xmlns='urn:f'>"
        "<USB><Controllers><Controller type='OHCI'/></Controllers></USB></x>"
        "<USB xmlns='urn:f'><Controllers><Controller type='EHCI'/></Controllers></USB>"
        "<v:USB xmlns:v='http://www.virtualbox.org/'><v:Controllers>"
        "<v:Controller name='c' type='XHCI' f:type='OHCI' xmlns:f='urn:f'/>"
        "</v:Controllers></v:USB>"
    )
    machine = load_machine(vbox(tmp_path, inside))
    assert not machine.remote_display.enabled
    assert machine.usb_controllers == ("XHCI",)


BOMB = (
    "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
    + "".join(
        f"<!ENTITY a{n} '{f'&a{n - 1 if n else str()};' * 10}'>" for n in range(9)
    )
    + "]><x>&a8;</x>"
)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is not XML"),
        (b"MZ\x90\0", "is not XML"),
        (b"<VirtualBox>", "is not XML"),
        (b"<html/>", "not <VirtualBox>"),
        (b"<VirtualBox version='1.18'/>", "of no namespace, not <VirtualBox> of"),
        (
            b"<VirtualBox xmlns='http://www.virtualbox.org/' version='1.19'>"
            b"<MachineEncrypted/></VirtualBox>",
            "encrypted",
        ),
        (b"<!DOCTYPE x SYSTEM '/etc/passwd'><x/>", "DOCTYPE"),
        (BOMB.encode(), "m.vbox"),
        (b" " * (MAX_SIZE + 1), "larger than"),
    ],
)
def test_what_is_no_machine_is_refused_with_a_sentence(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    path = tmp_path / "m.vbox"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=sentence):
        load_machine(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.vbox: No such file"):
        load_machine(tmp_path / "nowhere.vbox")
    with pytest.raises(SettingsError, match="Is a directory"):
        load_machine(tmp_path)
    os.mkfifo(tmp_path / "fifo.vbox")
    with pytest.raises(SettingsError, match=r"not a regular file; name a \.vbox"):
        load_machine(tmp_path / "fifo.vbox")


@pytest.mark.parametrize(
    ("properties", "extra", "disabled"),
    [
        ({}, {}, False),
        ({"Client/DisableUSB": "1"}, {}, True),
        ({"Client/DisableUSB": "0"}, {"VRDE/Feature/Client/DisableUSB": "1"}, False),
        ({}, {"VRDE/Feature/Client/DisableUSB": "1"}, True),
        ({}, {"VRDP/Feature/Client/DisableUSB": "1"}, True),
        (
            {},
            {
                "VRDE/Feature/Client/DisableUSB": "0",
                "VRDP/Feature/Client/DisableUSB": "1",
            },
            False,
        ),
        ({"Client/DisableUSB": "true"}, {}, False),
    ],
)
def test_feature_switches_and_their_precedence(
    properties: dict[str, str], extra: dict[str, str], disabled: bool
) -> None:
    machine = Machine(
        "M", remote_display=RemoteDisplay(properties=properties), extra_data=extra
    )
    assert machine.feature_disabled("USB") is disabled
