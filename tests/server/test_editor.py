"""Changing machines of every version: what is changed, and that nothing else is."""

from pathlib import Path

import pytest

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import Filter
from rusb.filters.store import from_attributes, read_number
from rusb.server.machine.document import Document
from rusb.server.machine.editor import Editor, new_machine
from rusb.server.machine.hardware import read_parts, to_hardware
from rusb.server.machine.settings import Machine, load_machine

MACHINE = """<?xml version="1.0"?>
<!-- kept -->
<VirtualBox xmlns="http://www.virtualbox.org/" version="{version}-linux">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a709}}" name="V" future="x">
    <Unknown><Deep a='1'/></Unknown>
    <Hardware version="2">
      <CPU count="1"><PAE enabled="true"/></CPU>
      <Memory RAMSize="256" PageFusion="false"/>
      {display}
      {usb}
      <!-- between -->
      <Network/>
    </Hardware>
  </Machine>
</VirtualBox>
"""
OLD_USB = """<USBController enabled="true" enabledEhci="false">
        <DeviceFilter name="one" active="true" vendorId="0529" strange="kept"/>
      </USBController>"""
NEW_USB = """<USB>
        <Controllers><Controller name="OHCI" type="OHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="one" active="true" vendorId="0529" strange="kept"/>
        </DeviceFilters>
      </USB>"""
VERSIONS = [f"1.{minor}" for minor in range(10, 20)]


def make(version: str) -> Editor:
    is_old = tuple(map(int, version.split("."))) < (1, 14)
    has_properties = tuple(map(int, version.split("."))) >= (1, 11)
    display = '<RemoteDisplay port="3390" authType="External"/>'
    if has_properties:
        display = """<RemoteDisplay authType="External"><VRDEProperties>
          <Property name="TCP/Ports" value="3390"/>
        </VRDEProperties></RemoteDisplay>"""
    usb = OLD_USB if is_old else NEW_USB
    text = MACHINE.format(version=version, display=display, usb=usb)
    return Editor(Document(text.encode()))


def load(editor: Editor, folder: Path) -> Machine:
    path = folder / "M.vbox"
    path.write_bytes(editor.document.data)
    return load_machine(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_filters_in_every_version(version: str, tmp_path: Path) -> None:
    editor = make(version)
    before = editor.document.data
    editor.add_filter(0, Filter(name="zero", product="A*", remote="yes"))
    editor.add_filter(99, Filter(name="last", vendor_id="0x1-0x2", active=False))
    machine = load(editor, tmp_path)
    assert [f.name for f in machine.filters] == ["zero", "one", "last"]
    assert machine.filters[2].vendor_id == "0x1-0x2"  # D1
    assert machine.filters[0].remote == "yes"
    editor.replace_filter(1, Filter(name="two", product_id="0001"))
    assert [f.name for f in editor.filters()] == ["zero", "two", "last"]
    assert b'strange="kept"' in editor.document.data
    assert load(editor, tmp_path).filters[1].vendor_id == ""
    for _ in range(2):
        editor.remove_filter(0)
    assert [f.name for f in editor.filters()] == ["last"]
    assert editor.raised_from is None  # filters never raise the version
    for kept in (
        b"<!-- kept -->",
        b'future="x"',
        b"<Deep a='1'/>",
        b"<!-- between -->",
    ):
        assert kept in before
        assert kept in editor.document.data
    with pytest.raises(SettingsError, match="0 to 0"):
        editor.remove_filter(1)


@pytest.mark.parametrize("version", VERSIONS)
def test_usb_controllers_in_every_version(version: str, tmp_path: Path) -> None:
    editor = make(version)
    assert load(editor, tmp_path).usb_controllers == ("OHCI",)
    editor.set_usb("EHCI", True)
    editor.set_usb("OHCI", False)
    assert load(editor, tmp_path).usb_controllers == ("EHCI",)
    assert editor.raised_from is None
    editor.set_usb("XHCI", True)
    editor.set_usb("XHCI", True)
    assert load(editor, tmp_path).usb_controllers == ("EHCI", "XHCI")
    is_old = tuple(map(int, version.split("."))) < (1, 15)
    assert editor.raised_from == (f"{version}-linux" if is_old else None)
    assert [f.name for f in load(editor, tmp_path).filters] == ["one"]
    assert b'strange="kept"' in editor.document.data
    editor.set_usb("XHCI", False)
    assert load(editor, tmp_path).usb_controllers == ("EHCI",)


@pytest.mark.parametrize("version", VERSIONS)
def test_properties_in_every_version(version: str, tmp_path: Path) -> None:
    editor = make(version)
    editor.set_property("TCP/Ports", "5000,5010-5012")
    editor.set_property("TCP/Address", "192.0.2.1")
    assert editor.raised_from is None
    editor.set_property("Security/Method", "TLS")
    editor.set_property("Client/DisableUSB", "1")
    editor.set_property("Client/DisableUSB", "")
    display = load(editor, tmp_path).remote_display
    assert display.properties == {
        "TCP/Ports": "5000,5010-5012",
        "TCP/Address": "192.0.2.1",
        "Security/Method": "TLS",
    }
    assert display.auth_type == "External"
    raised = "1.10-linux" if version == "1.10" else None
    assert editor.raised_from == raised
    with pytest.raises(SettingsError, match="cannot be empty"):
        editor.set_property("TCP/Ports", "")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rest_in_every_version(version: str, tmp_path: Path) -> None:
    editor = make(version)
    editor.set_attribute("name", 'Naïve "VM" & more')
    editor.set_vrde(False)
    editor.set_auth_type("null")
    editor.set_display("allowMultiConnection", "true")
    editor.set_extra("B", "2")
    editor.set_extra("A", "1")
    editor.set_extra("C", "3")
    editor.set_extra("B", "")
    editor.set_memory(512)
    editor.set_cpus(4)
    editor.set_acpi(True)
    editor.set_boot(1, "dvd")
    editor.set_boot(1, "disk")
    editor.set_nic(1, "nat")
    editor.set_nic(2, "null")
    editor.set_description("two\nlines & more")
    disk = tmp_path / "disk.vdi"
    editor.add_controller("IDE", "ide", "PIIX4")
    editor.attach("IDE", 0, 0, "hdd", disk)
    editor.attach("IDE", 1, 0, "dvd", None)
    machine = load(editor, tmp_path)
    assert machine.name == 'Naïve "VM" & more'
    assert not machine.remote_display.enabled
    assert machine.remote_display.auth_type == "Null"
    assert machine.remote_display.allow_multi_connection
    assert machine.extra_data == {"A": "1", "C": "3"}
    parts = read_parts(editor.document, tmp_path, machine.usb_controllers)
    assert (parts.memory, parts.cpus, parts.acpi) == (512, 4, True)
    assert parts.boot == ["disk", "dvd", "disk", "none"]
    assert parts.description == "two\nlines & more"
    assert [a.mode for a in parts.adapters.values()] == ["NAT", ""]
    (controller,) = parts.controllers
    assert [(d.kind, d.medium) for d in controller.drives] == [
        ("hdd", disk),
        ("dvd", None),
    ]
    hardware = to_hardware(parts)
    assert [(d.bus, d.port, d.kind) for d in hardware.disks] == [
        ("ide", 0, "hdd"),
        ("ide", 1, "dvd"),
    ]
    assert b'<PAE enabled="true"/>' in editor.document.data
    assert b'PageFusion="false"' in editor.document.data
    editor.detach("IDE", 0, 0)
    assert b"disk.vdi" not in editor.document.data  # forgotten with its last drive
    editor.remove_controller("IDE")
    with pytest.raises(SettingsError, match="no storage controller named 'IDE'"):
        editor.detach("IDE", 0, 0)


EXPRESSIONS = [  # filters.md 1.2, the table and the rules before it, and 1.9
    ("1234", "1234"),
    ("0100", "0100"),
    ("46d", "046D"),
    ("0x046d", "046D"),
    ("+1", "0001"),
    ("FFFFFFFF", "FFFF"),
    ("--20", "0020"),
    ("abcd", "ABCD"),
    ("1234|", "1234|"),
    (" 1234", " 1234"),
    ("1234 ", "1234 "),
    (" 12345", " 12345"),
    ("|12345", "|12345"),
    ("1200-1300", "1200-1300"),
    ("0x1200-0x12FF", "0x1200-0x12FF"),
    ("-20", "-20"),
    (" -20", "-20"),
    ("\t| 5-7", "5-7"),
    ("010-017", "010-017"),
    ("1000-1200", "1000-1200"),
    ("99999|1", "99999|1"),
    ("||1||2|", "1||2|"),
    ("5 - 3", "5 - 3"),
    ("|", "|"),
    (" ", " "),
]


@pytest.mark.parametrize(("text", "stored"), EXPRESSIONS)
@pytest.mark.parametrize("version", ["1.10", "1.18"])
def test_d1_numeric_texts_survive(
    text: str, stored: str, version: str, tmp_path: Path
) -> None:
    """Saved and loaded again, a filter admits what it admitted when it was made."""
    given = Filter(name="n", vendor_id=text, port=text)
    editor = make(version)
    editor.add_filter(1, given)
    editor.replace_filter(0, Filter(name="n", product_id=text, revision=text))
    first, second = load(editor, tmp_path).filters
    want = given.criteria["vendor_id"]
    for found in (
        *(second.criteria["vendor_id"], second.criteria["port"]),
        *(first.criteria["product_id"], first.criteria["revision"]),
    ):
        for number in (*range(0x20, 0x1400), 0, 1, 2, 5, 0x046D, 0xABCD, 12345, 0xFFFF):
            assert found.accepts(number) == want.accepts(number), (text, number)
    assert second.vendor_id == stored


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10", 10),
        ("0x1F", 31),
        ("017", 15),
        ("0", 0),
        ("4294967295", 0xFFFFFFFF),
        *((wrong, None) for wrong in ("4294967296", "0x100000000", "0o17", "08", "0x")),
        *(
            (wrong, None)
            for wrong in ("", " 1", "1 ", "+1", "-1", "1_0", "\u0661", "1e3")
        ),
    ],
)
def test_numbers_of_settings_files(text: str, number: int | None) -> None:
    assert read_number(text) == number


def test_remote_and_mask_of_a_global_filter_are_ignored() -> None:
    attributes = {"name": "n", "active": "1", "remote": "any", "maskedInterfaces": "3"}
    found = from_attributes(attributes, is_global=True)
    assert found is not None
    assert (found.remote, found.masked_interfaces) == ("", 0)
    with pytest.raises(FilterError):
        from_attributes(attributes)


def test_a_new_machine(tmp_path: Path) -> None:
    number, data = new_machine("Windows XP", "WindowsXP")
    path = tmp_path / "x.vbox"
    path.write_bytes(data)
    machine = load_machine(path)
    assert (machine.name, machine.os_type, machine.uuid) == (
        "Windows XP",
        "WindowsXP",
        number,
    )
    assert not machine.remote_display.enabled
    assert machine.usb_controllers == ()


def test_what_is_refused() -> None:
    editor = make("1.18")
    with pytest.raises(SettingsError, match="null, external, guest"):
        editor.set_auth_type("ldap")
    with pytest.raises(SettingsError, match="invalid extra data key"):
        editor.set_extra("a\nb", "1")
    editor.set_extra("a\nb", "")  # removing is harmless
    with pytest.raises(SettingsError, match="is no ide controller"):
        editor.add_controller("X", "ide", "AHCI")
    editor.add_controller("X", "sata")
    with pytest.raises(SettingsError, match="already a storage controller"):
        editor.add_controller("X", "sata")
    with pytest.raises(SettingsError, match="cannot be empty"):
        editor.attach("X", 0, 0, "hdd", None)
    with pytest.raises(SettingsError, match="nothing is attached"):
        editor.detach("X", 0, 0)
    with pytest.raises(SettingsError, match="no USB controller named"):
        editor.rename_usb("EHCI", "x")
    editor.rename_usb("OHCI", "Front")
    assert b'name="Front" type="OHCI"' in editor.document.data
    with pytest.raises(SettingsError, match="not the .vbox file of a machine"):
        Editor(Document(b"<VirtualBox><Global/></VirtualBox>"))
