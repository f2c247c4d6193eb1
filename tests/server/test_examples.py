"""Whole settings files of every version: read, changed in one place, changed back.

``spec-*`` are those of filters.md 2.2; the others were composed for these tests.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.hardware import read_hardware
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import NAMESPACES, load_machine, read_machine
from tests.support.rows import each_row

DATA = Path(__file__).with_name("data")
SPEC = Path(__file__).parents[2] / "docs" / "spec" / "filters.md"


@dataclass
class Want:
    """What is written in a file, as a person reads it."""

    name: str
    usb: str = ""
    filters: tuple[str, ...] = ()
    display: tuple[bool, str, str] = (False, "Null", "3389")
    properties: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    memory: int = 128
    cpus: int = 1
    networks: tuple[str, ...] = ()
    drives: tuple[tuple[str, int, str | None], ...] = ()
    description: str = ""


ADDRESS = {"TCP/Address": "192.0.2.10"}
VIDEO = {"VideoChannel/Enabled": "true", "VideoChannel/Quality": "75"}
JOHN = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
SECURITY = {
    "Client/DisableClipboard": "1",
    "Security/CACertificate": "/srv/vrde/ca_cert.pem",
    "Security/Method": "TLS",
    "Security/ServerCertificate": "/srv/vrde/server_cert.pem",
    "Security/ServerPrivateKey": "/srv/vrde/server_key_private.pem",
}
TABLE = {
    "spec-1.10": Want(
        name="Lab Server",
        usb="OHCI",
        filters=("Dongle at the client",),
        display=(True, "External", "5000,5010-5012"),
        properties=ADDRESS | VIDEO,
        extra={"VRDP/Feature/Client/DisableUSB": "1"},
        memory=256,
    ),
    "spec-1.12": Want(
        name="Lab Server",
        usb="OHCI EHCI",
        filters=("Dongle at the client",),
        display=(True, "External", "5000,5010-5012"),
    ),
    "spec-1.18": Want(
        name="Lab Server",
        usb="OHCI EHCI",
        filters=(
            "Dongle at the client",
            "Camera, video part hidden",
            "Any stick by Kingston",
            "Mouse on the host",
        ),
        display=(True, "External", "5000,5010-5012"),
        properties=ADDRESS | VIDEO | SECURITY,
        extra={
            "GUI/LastNormalWindowPosition": "640,306,720,451",
            "VBoxAuthSimple/users/john": JOHN,
            "VRDP/Feature/Client/DisableAudio": "1",
        },
        memory=2048,
        cpus=2,
        networks=("NAT",),
    ),
    "innotek-1.3": Want(
        name="Old Lab",
        usb="OHCI",
        filters=("Dongle",),
        display=(True, "External", "3390"),
        properties=ADDRESS,
        extra={"GUI/SaveMountedAtRuntime": "yes"},
        memory=192,
        networks=("NAT",),
    ),
    "innotek-1.14": Want(
        name="Lab of 4.3",
        usb="OHCI EHCI",
        filters=("Sticks",),
        display=(True, "Null", "5000,5010-5012"),
        extra={"VRDP/Feature/Client/DisableUSB": "1"},
        memory=512,
        cpus=2,
        networks=("NAT",),
        drives=(("hdd", 0, "Lab.vdi"),),
    ),
    "windows-1.10": Want(
        name="Office XP",
        usb="OHCI EHCI",  # D5
        filters=("Scanner", 'Old "any"'),
        display=(True, "Null", "3391"),
        properties=VIDEO | {"VideoChannel/Enabled": "false"},
        extra={
            "GUI/SaveMountedAtRuntime": "yes",
            "VRDP/Feature/Client/DisableUSB": "0",
        },
        memory=192,
        networks=("NAT",),
        drives=(("hdd", 0, None), ("dvd", 1, None)),  # media are in the global file
    ),
    "kiosk-1.11": Want(
        name="Kiosk",
        display=(True, "Guest", "4000"),
        properties=VIDEO | {"TCP/Address": "192.0.2.7", "VideoChannel/Quality": "10"},
        memory=512,
        networks=(),  # there is one, switched off
        drives=(("hdd", 0, "Kiosk.vdi"),),
    ),
    "snapshots-1.12": Want(
        name="With snapshots",
        usb="OHCI EHCI",
        filters=("of now",),
        display=(True, "Null", "3389"),
        memory=1024,
        cpus=3,
        networks=("NAT",),
        drives=(("hdd", 0, "Snapshots/two.vdi"),),
        description="the present",
    ),
    "comments-1.13": Want(
        name="Comments",
        usb="EHCI",
        filters=("Hand made", "With a child"),
        extra={"Order/of/attributes": "first", "Over/several/lines": "a\nb"},
        memory=0o400,
        cpus=2,
        description="one <b>two</b>\n&amp; three",
    ),
    "both-1.14": Want(
        name="Both forms",
        usb="OHCI EHCI",
        filters=("new form", "old form"),
        display=(True, "Null", "3389"),
        memory=256,
    ),
    "latin1-1.15": Want(
        name="Prüfstand für Geräte",
        usb="XHCI",
        filters=("Türöffner",),
        display=(True, "External", "3389"),
        memory=4096,
        cpus=4,
        description="Gerät € \U0001f600",
    ),
    "bom-1.16": Want(
        name="Ελλάς αΩ",
        usb="OHCI EHCI",
        display=(False, "Null", "3389,"),
        extra={
            "GUI/LastCloseAction": "PowerOff",
            "GUI/LastNormalWindowPosition": "640,306,720,451,max",
            "GUI/StatusBar/IndicatorOrder": "HardDisks,Network,USB",
        },
        memory=2048,
        cpus=2,
        drives=(("dvd", 1, None),),
    ),
    "router-1.17": Want(
        name="Router",
        memory=640,
        networks=("NAT", "BridgedInterface", "InternalNetwork"),
        drives=(("hdd", 0, "router.vmdk"),),
    ),
    "prefixes-1.18": Want(
        name="Prefixes",
        usb="OHCI",
        filters=("ours",),
        display=(True, "Null", "3389"),
        extra={"k": "v"},
        memory=768,
        cpus=2,
    ),
    "seven-1.19": Want(
        name="Seven",
        usb="XHCI",
        filters=("Token", "Rest"),
        display=(True, "External", "5001"),
        extra={"VRDE/Feature/Client/DisableAudio": "1"},
        memory=4096,
        cpus=2,
        networks=("NAT",),
        drives=(("dvd", 1, None),),
    ),
    "later-1.42": Want(
        name="Later",
        usb="XHCI",
        filters=("Token", "Rest"),
        display=(True, "External", "5001"),
        extra={"VRDE/Feature/Client/DisableAudio": "1"},
        memory=4096,
        cpus=2,
        networks=("NAT",),
        drives=(("dvd", 1, None),),
    ),
}


def test_the_first_example_is_that_of_the_spec() -> None:
    text = SPEC.read_text("utf-8")
    assert (DATA / "spec-1.18.vbox").read_text("utf-8") in text
    assert (DATA / "spec-global.xml").read_text("utf-8").partition("\n")[2] in text


@pytest.mark.parametrize("stem", TABLE)
def test_what_is_written_is_read(stem: str) -> None:
    want = TABLE[stem]
    path = DATA / f"{stem}.vbox"
    machine = load_machine(path)
    display = machine.remote_display
    parts = read_hardware(Document(path.read_bytes()), DATA, machine.usb_controllers)
    assert machine.version == tuple(map(int, stem.rpartition("-")[2].split(".")))
    assert want == Want(
        name=machine.name,
        usb=" ".join(machine.usb_controllers),
        filters=tuple(f.name for f in machine.filters),
        display=(display.enabled, display.auth_type, display.property("TCP/Ports")),
        properties={n: v for n, v in display.properties.items() if n != "TCP/Ports"},
        extra=machine.extra_data,
        memory=parts.memory,
        cpus=parts.cpus,
        networks=tuple(parts.adapters[n].mode for n in sorted(parts.adapters)),
        drives=tuple(
            (d.kind, d.port, str(d.medium.relative_to(DATA)) if d.medium else None)
            for controller in parts.controllers
            for d in controller.drives
        ),
        description=parts.description,
    )


def test_an_encrypted_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match="encrypted machine"):
        load_machine(DATA / "encrypted-1.19.vbox")


@each_row("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_saving_without_a_change_keeps_every_byte(path: Path) -> None:
    if path.suffix in (".vbox", ".xml"):
        assert Document(path.read_bytes()).data == path.read_bytes()


@pytest.mark.parametrize("stem", TABLE)
def test_both_names_of_the_namespace_mean_the_same(stem: str, tmp_path: Path) -> None:
    """VirtualBox 5.0 and before wrote the older one."""
    other, data = tmp_path / "other.vbox", (DATA / f"{stem}.vbox").read_bytes()
    new, old = (name.encode() for name in NAMESPACES)
    is_old = old in data
    other.write_bytes(data.replace(*((old, new) if is_old else (new, old))))
    assert replace(load_machine(other), path=None) == replace(
        load_machine(DATA / f"{stem}.vbox"), path=None
    )
    registry = Registry(tmp_path / "vms", tmp_path / "home")
    registry.edit(registry.register(other), lambda e: e.set_usb("XHCI", True))
    assert (old in other.read_bytes()) is not is_old


def test_the_list_of_machines_of_an_old_virtualbox(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "vms", tmp_path)
    new, old = NAMESPACES
    text = (DATA / "spec-global.xml").read_text().replace(new, old)
    registry.path.write_text(text)
    assert [f.name for f in registry.filters()] == [
        "One model only",
        "Nothing else by them",
    ]
    registry.set_property("VRDEAuthLibrary", "null")
    assert f'xmlns="{old}"' in registry.path.read_text()


# ---------------------------------------------------------------- changes ----

Do = Callable[[Editor], object]


def controller(editor: Editor) -> str:
    """Any storage controller; it is made if there is none."""
    parts = read_hardware(editor.document, DATA)
    if not parts.controllers:
        editor.add_controller("new", "sata")
        return "new"
    return parts.controllers[0].name


def place(editor: Editor, name: str) -> tuple[int, int]:
    """The last place of a controller of any kind; it is free in every example."""
    parts = read_hardware(editor.document, DATA)
    kind = next(c.type for c in parts.controllers if c.name == name)
    return (1, 1) if kind.startswith("PIIX") else (5, 0)


def attach(editor: Editor) -> None:
    name = controller(editor)
    editor.attach(name, *place(editor, name), "dvd", Path("/isos/new.iso"))


def detach(editor: Editor) -> None:
    name = controller(editor)
    editor.detach(name, *place(editor, name))
    if name == "new":
        editor.remove_controller(name)


def modify(editor: Editor) -> None:
    if given := editor.filters():
        editor.replace_filter(0, replace(given[0], manufacturer="x", product="y"))


def toggle(editor: Editor) -> None:
    hardware = read_machine(editor.document, DATA / "x.vbox").usb_controllers
    editor.set_usb("EHCI", "EHCI" not in hardware)


ITEM = r"</?(\w+:)?(ExtraData|ExtraDataItem name=.*new/key.*)/?>"
USB = r"</?(\w+:)?(USB|Controllers|Controller .*EHCI.*|USBController.*)/?>"
FILTER = r"</?(\w+:)?(USB|DeviceFilters|USBController .*|DeviceFilter .*)/?>"
DISK = (
    r"</?(\w+:)?(StorageController name=.*|StorageControllers|AttachedDevice.*"
    r"|Image.*|MediaRegistry|DVDImages)/?>"
)
DISPLAY = r"</?(\w+:)?(RemoteDisplay.*|VRDEProperties|Property.*|VideoChannel.*)/?>"


def same(editor: Editor) -> None:
    """Set what the file had; see :func:`put_back`."""


def put_back(what: str, editor: Editor) -> Do:
    """Return what sets a thing to what it is now."""
    machine = read_machine(editor.document, DATA / "x.vbox")
    memory = read_hardware(editor.document, DATA).memory
    address = machine.remote_display.property("TCP/Address")
    library = machine.remote_display.auth_library or None
    given = machine.filters[0] if machine.filters else None
    return {
        "memory": lambda e: e.set_memory(memory),
        "property": lambda e: e.set_property("TCP/Address", address),
        "display": lambda e: e.set_display("authLibrary", library),
        "filter modified": lambda e: given and e.replace_filter(0, given),
    }.get(what, CHANGES[what][1])


CHANGES: dict[str, tuple[Do, Do, str]] = {
    "extra data": (
        lambda e: e.set_extra("new/key", "v"),
        lambda e: e.set_extra("new/key", ""),
        ITEM,
    ),
    "filter first": (
        lambda e: e.add_filter(0, Filter("n", product="ü")),
        lambda e: e.remove_filter(0),
        FILTER,
    ),
    "filter last": (
        lambda e: e.add_filter(99, Filter("n", vendor_id="1|2")),
        lambda e: e.remove_filter(len(e.filters()) - 1),
        FILTER,
    ),
    "filter modified": (
        modify,
        same,
        FILTER,
    ),
    "usb": (toggle, toggle, USB),
    "medium": (attach, detach, DISK),
    "property": (
        lambda e: e.set_property("TCP/Address", "::1"),
        same,
        DISPLAY,
    ),
    "display": (
        lambda e: e.set_display("authLibrary", "x"),
        same,
        DISPLAY + r"|<VirtualBox .*>",
    ),
    "memory": (
        lambda e: e.set_memory(77),
        same,
        r"<(\w+:)?Memory .*/>",
    ),
}
NOT_UNDONE = {  # what stood there was not written as rusb writes it
    ("comments-1.13", "usb"),  # no and 0 are written as false
    ("comments-1.13", "memory"),  # octal
    ("comments-1.13", "property"),  # <RemoteDisplay ...></RemoteDisplay  >
    ("latin1-1.15", "filter modified"),  # characters that are no references
    ("windows-1.10", "usb"),  # D5: both attributes
    ("bom-1.16", "usb"),  # the controller had another name
    ("spec-1.12", "memory"),  # the default was not written
    ("spec-1.10", "display"),  # the version was raised
    ("windows-1.10", "display"),
    ("innotek-1.3", "display"),
    ("kiosk-1.11", "property"),  # attributes from before 1.11
    ("kiosk-1.11", "extra data"),  # <ExtraData/> and the like
    ("both-1.14", "medium"),
    ("seven-1.19", "medium"),
    ("later-1.42", "medium"),
}


@each_row("what", CHANGES)
@each_row("stem", TABLE)
def test_a_change_keeps_every_byte_around_it(stem: str, what: str) -> None:
    data = (DATA / f"{stem}.vbox").read_bytes()
    do, _, allowed = CHANGES[what]
    editor = Editor(Document(data), DATA)
    undo = put_back(what, editor)
    do(editor)
    changed = editor.document.data
    machine = read_machine(Document(changed), DATA / "x.vbox")
    assert machine.name == TABLE[stem].name
    allowed = rf"\s*({allowed}|</[\w:]+>|wish=.*)(<.*)?\s*"
    for line in difflib.ndiff(lines(data), lines(changed)):
        if line[0] in "+-":
            assert re.fullmatch(allowed, line[2:]), line
    undo(editor)
    undone = editor.document.data
    again = Editor(Document(changed), DATA)
    undo(again)
    assert again.document.data == undone  # saved in between or not
    before, after = (read_machine(Document(d), DATA / "x.vbox") for d in (data, undone))
    assert replace(after, version=before.version) == before
    if (stem, what) in NOT_UNDONE:
        assert undone != data
    else:
        assert undone.decode("latin-1") == data.decode("latin-1")


@pytest.mark.parametrize("stem", TABLE)
def test_removing_takes_the_element_alone(stem: str) -> None:
    data = (DATA / f"{stem}.vbox").read_bytes()
    editor = Editor(Document(data), DATA)
    for index in range(len(editor.filters()) - 1):
        editor.remove_filter(0)
        gone = TABLE[stem].filters[index]
        assert [f.name for f in editor.filters()] == [*TABLE[stem].filters[index + 1 :]]
        kept, rest = (
            [line for line in lines(text) if not re.search("DeviceFilter|wish=", line)]
            for text in (data, editor.document.data)
        )
        assert rest == kept, gone


def lines(data: bytes) -> list[str]:
    return data.decode("latin-1").splitlines(keepends=True)


@pytest.mark.parametrize("stem", TABLE)
def test_the_registry_saves_what_the_editor_wrote(stem: str, tmp_path: Path) -> None:
    path = tmp_path / "vms" / "M.vbox"
    path.parent.mkdir()
    path.write_bytes((DATA / f"{stem}.vbox").read_bytes())
    registry = Registry(tmp_path / "vms", tmp_path / "home")
    entry = registry.register(path)
    assert registry.find(TABLE[stem].name).uuid == entry.uuid
    machine = registry.edit(entry, lambda e: e.set_extra("new/key", "v"))
    assert machine.extra_data == TABLE[stem].extra | {"new/key": "v"}
    machine = registry.edit(entry, lambda e: e.set_extra("new/key", ""))
    if (stem, "extra data") not in NOT_UNDONE:
        assert path.read_bytes() == (DATA / f"{stem}.vbox").read_bytes()
    assert machine == replace(load_machine(DATA / f"{stem}.vbox"), path=path)
