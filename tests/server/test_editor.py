"""Changing machines of every version: what is changed, and that nothing else is."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import Filter
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import Editor, new_machine
from rusb.server.vbox.filter_attributes import from_attributes
from rusb.server.vbox.hardware import read_hardware
from rusb.server.vbox.settings import Machine, load_machine, read_machine
from rusb.server.vbox.values import read_number
from tests.support.rows import each_row

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
    with pytest.raises(SettingsError, match="the last one is 0"):
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
    parts = read_hardware(editor.document, tmp_path, machine.usb_controllers)
    assert (parts.memory, parts.cpus, parts.acpi) == (512, 4, True)
    assert parts.boot == ["disk", "dvd", "disk", "none"]
    assert parts.description == "two\nlines & more"
    assert [a.mode for a in parts.adapters.values()] == ["NAT", ""]
    (controller,) = parts.controllers
    assert [(d.kind, d.medium) for d in controller.drives] == [
        ("hdd", disk),
        ("dvd", None),
    ]
    assert [(bus, d.port, d.kind) for bus, d in parts.drives()] == [
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
    numbers = *range(0x20, 0x1400), 0, 1, 2, 5, 0x046D, 0xABCD, 12345, 0xFFFF
    want = list(filter(given.criteria["vendor_id"].accepts, numbers))
    for found in (
        *(second.criteria["vendor_id"], second.criteria["port"]),
        *(first.criteria["product_id"], first.criteria["revision"]),
    ):
        assert list(filter(found.accepts, numbers)) == want
    assert second.vendor_id == stored


@each_row(
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


OLD_VERSIONS = [f"1.{minor}" for minor in (3, 9, 10, 11, 13, 14, 15)]
"""The oldest, and both sides of each change of form."""

DISPLAYS = [
    "",
    "<RemoteDisplay/>",
    "<RemoteDisplay enabled='no' authType='guest' authTimeout='0x100'/>",
    "<RemoteDisplay enabled='1' port='0' netAddress='::1' new='x'><New/>"
    "</RemoteDisplay>",
    "<RemoteDisplay port='5000'><VideoChannel enabled='yes'/></RemoteDisplay>",
    "<RemoteDisplay port=''><VideoChannel quality='200' x='y'/></RemoteDisplay>",
    "<RemoteDisplay port='1' netAddress='::1'><VideoChannel/><VRDEProperties>"
    "<Property name='TCP/Ports' value='2'/><Property name='TCP/Address' value=''/>"
    "<Property name='VideoChannel/Quality' value='50'/></VRDEProperties>"
    "</RemoteDisplay>",
]
NEW_FORM = """<USB new="x">
        <!-- new -->
        <Controllers><Controller name="E" type="EHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="new" active="1" strange="new"/>
        </DeviceFilters>
      </USB>"""
OLD_FORMS = [
    "",
    "<USBController enabled='yes'/>",
    "<USBController enabled='1' enabledEhci='0'/>",
    "<USBController enabled='no' enabledEhci='1' new='x'/>",
    """<USBController enabled='true'>
        <!-- <old> -->
        <DeviceFilter name='old' active='yes' vendorid='46d' strange='old'><X/>\
</DeviceFilter>
        <Unknown/><DeviceFilter name='dropped'/>
        <DeviceFilter name='two' active='false' remote='1' maskedInterfaces='0x3'/>
      </USBController>""",
]
RAISES = {  # what needs a version (filters.md 2.8), and what it changes
    "video": (
        (1, 10),
        lambda e: e.set_property("VideoChannel/Enabled", "true"),
        {"VideoChannel/Enabled": "true"},
    ),
    "quality": (
        (1, 10),
        lambda e: e.set_property("VideoChannel/Quality", "42"),
        {"VideoChannel/Quality": "42"},
    ),
    "property": ((1, 11), lambda e: e.set_property("x", "1"), {"x": "1"}),
    "library": ((1, 11), lambda e: e.set_auth_library("lib"), {"library": "lib"}),
    "pack": ((1, 11), lambda e: e.set_display("VRDEExtPack", "p"), {}),
    "rename": ((1, 14), lambda e: e.rename_usb("OHCI", "Front"), {}),
    "xhci": ((1, 15), lambda e: e.set_usb("XHCI", True), {"usb": "XHCI"}),
    "memory": ((1, 0), lambda e: e.set_memory(99), {}),
    "filter": ((1, 0), lambda e: e.add_filter(99, Filter("f")), {"filter": "f"}),
    "ports": ((1, 0), lambda e: e.set_property("TCP/Ports", "9"), {"TCP/Ports": "9"}),
}


def meaning(document: Document) -> dict[str, object]:
    """What rusb reads of a machine, but its version."""
    machine = read_machine(Document(document.data), Path("M.vbox"))
    display = machine.remote_display
    found: dict[str, object] = dict(display.properties)
    if found.get("VideoChannel/Enabled") == "false":
        del found["VideoChannel/Enabled"]  # off, as without it
    if found.get("VideoChannel/Quality") == "75":
        del found["VideoChannel/Quality"]  # the default
    display.properties = {}
    found |= {"library": display.auth_library, "extra": machine.extra_data}
    display.auth_library = ""
    found |= {"display": display, "name": machine.name, "uuid": machine.uuid}
    found |= {f"usb {kind}": 1 for kind in machine.usb_controllers}
    return found | {"filters": machine.filters}


@pytest.mark.parametrize("version", OLD_VERSIONS)
def test_a_raised_version_means_what_the_old_one_meant(version: str) -> None:
    for display in DISPLAYS:
        for usb in [*OLD_FORMS, *(NEW_FORM + old for old in OLD_FORMS)]:
            text = MACHINE.format(version=version, display=display, usb=usb)
            before = meaning(Document(text.encode()))
            for what in RAISES:
                if what != "rename" or "usb OHCI" in before:
                    raise_it(what, version, text, before)


def raise_it(what: str, version: str, text: str, before: dict[str, object]) -> None:
    """Change a machine that meant something before; does it mean what it should?"""
    needs, change, changes = RAISES[what]
    number = (1, int(version[2:]))
    editor = Editor(Document(text.encode()))
    want = dict(before)
    for key, value in changes.items():
        if key == "usb":
            want[f"usb {value}"] = 1
        elif key == "filter":
            want["filters"] = (*want["filters"], Filter(value))  # type: ignore[misc]
        else:
            want[key] = value
    change(editor)  # type: ignore[no-untyped-call]
    assert meaning(editor.document) == want, (what, text)
    is_new = not changes or want != before
    reached = max(number, needs) if is_new else number
    assert editor.version == reached, (what, text)
    raised = f"{version}-linux" if reached > number else None
    assert editor.raised_from == raised, (what, text)
    data = editor.document.data
    assert b'version="1.%d-linux"' % reached[1] in data
    if number < (1, 11) <= reached:
        words = (b" port=", b" netAddress=", b"quality=", b"<VideoChannel/>")
        assert not any(word in data for word in words), (what, text)
    if number < reached >= (1, 14):
        assert b"<USBController" not in data, (what, text)
    for word in ("strange='old'", 'strange="new"', "<!-- <old> -->", "<X/>"):
        assert (word in text) == (word.encode() in data), (what, text)
    for word in ("new=", "<New/>", "<!-- kept -->", "<Unknown/>"):
        assert (word in text) == (word.encode() in data), (what, text)


def test_the_form_of_usb_since_1_14() -> None:
    editor = make("1.12")
    editor.set_usb("XHCI", True)
    assert (
        b"""
      <!-- between -->
      <Network/>
      <USB>
        <Controllers>
          <Controller name="OHCI" type="OHCI"/>
          <Controller name="xHCI" type="XHCI"/>
        </Controllers>
        <DeviceFilters>
          <DeviceFilter name="one" active="true" vendorId="0529" strange="kept"/>
        </DeviceFilters>
      </USB>
    </Hardware>"""
        in editor.document.data
    )


def test_version_1_10_has_the_element_videochannel() -> None:
    editor = make("1.10")
    before = editor.document.data
    editor.set_property("VideoChannel/Enabled", "TRUE")
    editor.set_property("VideoChannel/Quality", "5")
    assert b'<VideoChannel enabled="true" quality="10"/>' in editor.document.data
    editor.set_property("VideoChannel/Enabled", "off")
    editor.set_property("VideoChannel/Quality", "words")
    assert b'<VideoChannel enabled="false" quality="75"/>' in editor.document.data
    editor.set_property("VideoChannel/Quality", "")
    editor.set_property("VideoChannel/Enabled", "")
    assert editor.document.data == before
    assert editor.raised_from is None


def test_an_old_attribute_of_a_new_version_gives_way() -> None:
    for value in ("4000", "3389"):
        text = MACHINE.format(version="1.14", display=DISPLAYS[4], usb="")
        editor = Editor(Document(text.encode()))
        editor.set_property("TCP/Ports", value)
        assert meaning(editor.document)["TCP/Ports"] == value
        assert b"port=" not in editor.document.data
    editor.set_property("VideoChannel/Enabled", "")
    assert "VideoChannel/Enabled" not in meaning(editor.document)


def test_d5_booleans_in_every_form() -> None:
    for old, kind, is_on, want in (
        ("enabled='yes'", "EHCI", False, b"enabled='true' enabledEhci=\"false\""),
        ("enabled='1' enabledEhci='no'", "EHCI", True, b"'true' enabledEhci='true'"),
        ("enabled='yes' enabledEhci='1'", "OHCI", False, b"'false' enabledEhci='true'"),
        ("enabled='on' enabledEhci='1'", "OHCI", True, b"'true' enabledEhci='true'"),
        ("enabledEhci='TRUE'", "OHCI", True, b"enabledEhci='false' enabled=\"true\""),
    ):
        text = MACHINE.format(version="1.9", display="", usb=f"<USBController {old}/>")
        editor = Editor(Document(text.encode()))
        editor.set_usb(kind, is_on)
        assert want in editor.document.data
        assert (f"usb {kind}" in meaning(editor.document)) is is_on


def test_what_is_so_already_changes_nothing() -> None:
    for version in VERSIONS:
        editor = make(version)
        before = editor.document.data
        editor.set_usb("OHCI", True)
        editor.set_usb("EHCI", False)
        editor.set_usb("XHCI", False)
        editor.set_auth_type("external")
        editor.set_auth_library("")
        editor.set_property("TCP/Ports", "3390")
        editor.set_property("Client/DisableUSB", "")
        editor.set_property("VideoChannel/Enabled", "")
        editor.set_vrde(version < "1.16")
        editor.set_extra("x", "")
        editor.set_memory(256)
        editor.set_nic(2, "none")
        editor.set_description("")
        editor.replace_filter(0, editor.filters()[0])
        assert editor.document.data == before


def test_defaults_are_not_written() -> None:
    for version, is_on in (("1.12", True), ("1.18", False)):
        text = MACHINE.format(version=version, display="", usb="")
        editor = Editor(Document(text.encode()))
        editor.set_vrde(not is_on)
        word = b"false" if is_on else b"true"
        assert b'<RemoteDisplay enabled="%s"/>' % word in editor.document.data
        editor.set_vrde(is_on)
        editor.set_auth_type("guest")
        assert b'<RemoteDisplay authType="Guest"/>' in editor.document.data
        editor.set_auth_type("NULL")
        assert editor.document.data == text.encode()
        editor.set_property("b", "1")
        editor.set_property("A", "1")
        editor.set_property("\u00e4", "1")
        names = re.findall(rb'name="([^"]+)" value', editor.document.data)
        assert names == [b"A", b"b", b"&#xE4;"]  # in the order of bytes
        for name in ("A", "b", "\u00e4"):
            editor.set_property(name, "")
        assert editor.document.data == text.encode()


def test_only_what_differs_in_a_filter_is_written() -> None:
    old = """<USBController enabled='true' enabledEhci='true'>
        <DeviceFilter vendorid='46d' active='yes' x="1" name='n' maskedInterfaces='3'/>
      </USBController>"""
    text = MACHINE.format(version="1.7", display="", usb=old)
    editor = Editor(Document(text.encode()))
    (before,) = editor.filters()
    editor.replace_filter(0, replace(before, product="P"))
    data = editor.document.data
    assert text.encode().replace(b"='3'/", b"='3' product=\"P\"/") == data
    editor.replace_filter(0, replace(before, vendor_id=""))
    assert b"<DeviceFilter active='yes' x=\"1\" name='n' maskedInterfaces='3'/>" in (
        editor.document.data
    )
    editor.replace_filter(0, before)
    assert b"'3' vendorId=\"046D\"/>" in editor.document.data


def test_networks_keep_what_is_theirs() -> None:
    nat = """<NAT network="10.1/16"><Forwarding name="ssh"/></NAT>"""
    adapter = f"""<Adapter slot='0' enabled='true'>{nat}<DisabledModes/></Adapter>"""
    usb = f"<Network>{adapter}</Network>"
    text = MACHINE.format(version="1.18", display="", usb=usb)
    editor = Editor(Document(text.encode()))
    editor.set_nic(1, "nat")
    assert editor.document.data == text.encode()
    editor.set_nic(1, "null")
    assert editor.document.data == text.replace(nat, "").encode()
    editor.set_nic(1, "nat")
    parts = read_hardware(editor.document, Path())
    assert parts.adapters[0].mode == "NAT"


def test_media_of_others_stay_registered(tmp_path: Path) -> None:
    registry = """<MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{1}" location="base.vdi">
          <HardDisk uuid="{2}" location="d.vdi"/>
        </HardDisk>
        <HardDisk uuid="{3}" location="other.vdi"/>
        <HardDisk uuid="{4}" location="snapshot.vdi"/>
      </HardDisks>
    </MediaRegistry>
    <Snapshot><StorageControllers><StorageController name="A">
      <AttachedDevice><Image uuid="{4}"/></AttachedDevice>
    </StorageController></StorageControllers></Snapshot>
    <Hardware"""
    drives = """<StorageControllers>
        <StorageController name="A" type="AHCI">
          <AttachedDevice port="0x0" device="0"><Image uuid="{2}"/></AttachedDevice>
          <AttachedDevice port="0x1" device="0"><Image uuid="{4}"/></AttachedDevice>
        </StorageController>
      </StorageControllers>"""
    text = MACHINE.format(version="1.18", display=drives, usb="")
    text = text.replace("<Hardware", registry)
    for port in (0, 1):
        editor = Editor(Document(text.encode()), tmp_path)
        editor.detach("A", port, 0)
        head, _, rest = text.partition(f'<AttachedDevice port="0x{port}')
        rest = rest.partition("</AttachedDevice>")[2]
        assert editor.document.data == (head.rstrip() + rest).encode()
        editor.attach("A", port, 0, "hdd", tmp_path / "other.vdi")
        assert b'device="0">\n            <Image uuid="{3}"/>' in editor.document.data
        assert editor.document.data.count(b"other.vdi") == 1
        editor.attach("A", port, 0, "hdd", tmp_path / "other.vdi")
        assert editor.document.data.count(b"{3}") == 2


def test_a_platform_cannot_leave_the_folder() -> None:
    text = MACHINE.format(version="1.10-../../x", display="", usb="")
    editor = Editor(Document(text.encode()))
    editor.set_auth_library("x")
    assert editor.raised_from == "1.10-linux"


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
    with pytest.raises(SettingsError, match="is not a controller for ide"):
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
    for old, new in (("EHCI", "x"), ("Front", "")):
        with pytest.raises(SettingsError):
            editor.rename_usb(old, new)
    with pytest.raises(SettingsError, match="cannot be empty"):
        editor.set_attribute("name", "")
    for ports in ("0-5", "5000, 5001", "70000", "a"):
        with pytest.raises(SettingsError, match="not a list of ports"):
            editor.set_property("TCP/Ports", ports)
    editor.add_controller("Y", "ide")
    with pytest.raises(SettingsError, match="already a storage controller"):
        editor.rename_controller("Y", "X")
    xmlns = b"xmlns='http://www.virtualbox.org/' version='1.18'"
    for data in (
        b"<VirtualBox version='1.18'><Machine/></VirtualBox>",
        b"<VirtualBox %s><Global/></VirtualBox>" % xmlns,
        b"<VirtualBox %s><Sealed/></VirtualBox>" % xmlns,
    ):
        with pytest.raises(SettingsError):
            Editor(Document(data))


def test_a_wrong_filter_is_an_error_of_the_settings() -> None:
    editor = make("1.18")
    data = editor.document.data.replace(b'"0529"', b'"12345"')
    editor = Editor(Document(data))
    with pytest.raises(SettingsError, match='USB filter 0 "one": vendorId'):
        editor.add_filter(0, Filter(name="x"))
    assert editor.document.data == data
