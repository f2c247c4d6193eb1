"""The list of machines, and what else the installation remembers."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "vms", tmp_path / "home")


def test_create_register_find_unregister(registry: Registry) -> None:
    made = registry.create("Lab Server", "Debian_64")
    assert registry.machines() == []
    assert registry.find(str(made.path)).uuid == made.uuid
    registry.register(made.path)
    for text in ("Lab Server", made.uuid, f"{{{made.uuid.upper()}}}", str(made.path)):
        assert registry.find(text).path == made.path
    with pytest.raises(SettingsError, match="registered already"):
        registry.register(made.path)
    registry.unregister("Lab Server")
    assert made.path.exists()
    with pytest.raises(SettingsError, match="could not find"):
        registry.find("Lab Server")
    registry.register(made.path)
    registry.unregister("Lab Server", delete=True)
    assert not made.path.parent.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        (".", "another directory"),
        ("..", "another directory"),
        ("a/b", "a slash"),
        ("../x", "a slash"),
        ("x" * 300, "it has 300 bytes; the maximum is 200"),
        ("\u00e4" * 120, "it has 240 bytes"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x7f", "control characters"),
        ("a\x9b31m", "control characters"),
        ("-x", "begins with -"),
        ("--name", "begins with -"),
        ("a\ufffe", "characters that XML does not allow"),
        ("a\udcc3", "'a.' is not UTF-8; check LANG"),
        ("a\ud800", "characters that XML does not allow"),
    ],
)
def test_names_that_are_no_names_of_machines(
    registry: Registry, tmp_path: Path, name: str, why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        registry.create(name)
    assert not list(tmp_path.iterdir())


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_full_disk_leaves_nothing(
    registry: Registry, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, _full_disk)
    with pytest.raises(SettingsError, match="No space left"):
        registry.create("A")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_registered_is_not_created(
    registry: Registry, tmp_path: Path
) -> None:
    registry.create_registered("A")
    elsewhere = tmp_path / "elsewhere" / "deep"
    with pytest.raises(SettingsError, match="named 'A' is registered"):
        registry.create_registered("A", folder=str(elsewhere))
    assert not elsewhere.parent.exists()
    elsewhere.mkdir(parents=True)
    with pytest.raises(SettingsError, match="named 'A' is registered"):
        registry.create_registered("A", folder=str(elsewhere))
    assert list(elsewhere.iterdir()) == []
    registry.path.write_text("broken")
    with pytest.raises(SettingsError, match="is not XML"):
        registry.create_registered("B", folder=str(elsewhere))
    assert list(elsewhere.iterdir()) == []


def test_the_same_name_twice(registry: Registry, tmp_path: Path) -> None:
    registry.register(registry.create("A").path)
    with pytest.raises(SettingsError, match="already exists"):
        registry.create("A")
    other = registry.create("A", folder=str(tmp_path / "elsewhere"))
    with pytest.raises(SettingsError, match="named 'A' is registered"):
        registry.register(other.path)


def test_a_path_finds_what_is_registered_and_what_is_not(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registry.create("A")
    monkeypatch.chdir(made.path.parent)
    (tmp_path / "link.vbox").symlink_to(made.path)
    paths = ("A.vbox", "../A/A.vbox", "./A.vbox", str(made.path))
    assert {registry.find(path).uuid for path in paths} == {made.uuid}
    assert registry.find("A.vbox").path.is_absolute()
    entry = registry.register(Path("A.vbox"))
    for text in (*paths, str(tmp_path / "link.vbox")):
        assert registry.find(text) == entry
    made.path.write_text("broken")
    assert registry.find("A.vbox").uuid == made.uuid
    with pytest.raises(SettingsError, match="could not find"):
        registry.find("B.vbox")
    for bad in ("{1}", "../../x", "{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a70}"):
        data = registry.create(f"B{len(bad)}").path.read_text()
        path = tmp_path / "bad.vbox"
        path.write_text(data.replace('uuid="{', f'uuid="{bad}" u="', 1))
        for use in (registry.find, registry.register):
            with pytest.raises(SettingsError, match="is not a UUID"):
                use(path if use == registry.register else str(path))  # type: ignore[arg-type]


def test_a_uuid_in_upper_case_is_the_same(registry: Registry) -> None:
    made = registry.create("A")
    data = made.path.read_text().replace(made.uuid, made.uuid.upper())
    made.path.write_text(data)
    assert registry.register(made.path).uuid == made.uuid
    with pytest.raises(SettingsError, match="registered already"):
        registry.register(made.path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "cannot read"),
        (lambda path: path.write_bytes(b"<half"), "is not XML"),
        (lambda path: path.write_bytes(b""), "is not XML"),
        (_fifo, "not a regular file"),
        (lambda path: shutil.rmtree(path.parent), "cannot read"),
        (
            lambda path: path.write_bytes(
                path.read_bytes().replace(
                    b"<Hardware>",
                    b"<Hardware><USB><DeviceFilters><DeviceFilter name='f' active='1'"
                    b" vendorId='12345'/></DeviceFilters></USB>",
                )
            ),
            "line 5: USB filter 0",
        ),
    ],
)
def test_a_machine_that_is_not_accessible_is_listed_and_can_go(
    registry: Registry, damage: Callable[[Path], object], problem: str
) -> None:
    made = registry.register(registry.create("A").path)
    other = registry.register(registry.create("B").path)
    damage(made.path)
    entry, _ = registry.machines()
    assert entry.name == "<inaccessible>"
    assert problem in entry.problem
    assert registry.find(made.uuid).machine is None
    assert registry.find("B").uuid == other.uuid
    before = made.path.read_bytes() if made.path.is_file() else b""
    with pytest.raises(SettingsError):
        registry.edit(entry, lambda e: e.set_memory(99))
    assert before == (made.path.read_bytes() if made.path.is_file() else b"")
    registry.unregister(made.uuid)
    assert [e.name for e in registry.machines()] == ["B"]


def test_a_machine_whose_path_cannot_be_looked_at(registry: Registry) -> None:
    entries = [registry.register(registry.create(name).path) for name in "AB"]
    registry.edit(entries[0], disks(entries[0].path.parent / "disk.vdi"))
    text = registry.path.read_text()
    place = f"/{'n' * 300}/B.vbox"
    registry.path.write_text(text.replace(str(entries[1].path), place))
    first, second = registry.machines()
    assert first.name == "A"
    assert "File name too long" in second.problem
    with pytest.raises(SettingsError, match="could not find"):
        registry.find(f"{'n' * 300}.vbox")
    done = registry.unregister("A", delete=True, disks=True)
    assert [path.name for path in done.kept] == ["disk.vdi"]  # B may have it


def test_left_overs_of_a_writer_that_died(registry: Registry) -> None:
    entry = registry.register(registry.create("A").path)
    for path in (entry.path, registry.path):
        Path(f"{path}-tmp").write_text("half")
    registry.edit(entry, lambda e: e.set_memory(99))
    registry.set_extra("a", "1")
    assert not list(registry.home.glob("*-tmp"))
    assert not list(entry.path.parent.glob("*-tmp"))


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot create the directory"):
        Registry(tmp_path / "file", tmp_path / "home").create("A")
    registry = Registry(tmp_path / "vms", tmp_path / "file")
    with pytest.raises(SettingsError, match=r"file: File exists|Not a directory"):
        registry.register(registry.create("A").path)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """As a user whom permissions concern, even if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_is_read_only() -> None:
    # not in the tests' own folder, into which only their user may look
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder)
        home.chmod(0o777)
        with as_nobody():
            registry = Registry(home / "vms", home / "home")
            entry = registry.register(registry.create("A").path)
            entry.path.parent.chmod(0o500)
            with pytest.raises(SettingsError, match="Permission denied"):
                registry.edit(entry, lambda e: e.set_memory(99))
            entry.path.parent.chmod(0o700)


def test_the_list_is_not_any_file(registry: Registry) -> None:
    registry.home.mkdir()
    made = registry.create("A")
    for data in (b"junk", b"<Global/>", made.path.read_bytes()):
        registry.path.write_bytes(data)
        for use in (registry.machines, lambda: registry.set_extra("a", "1")):
            with pytest.raises(SettingsError, match=r"VirtualBox\.xml"):
                use()
        assert registry.path.read_bytes() == data


VDI = b"<<< any program >>>\n".ljust(64) + bytes.fromhex("7f10dabe01000100")


def disks(*paths: Path) -> Callable[[Editor], None]:
    def change(editor: Editor) -> None:
        for number, path in enumerate(paths):
            controller, port = divmod(number, 6)
            if not port:
                editor.add_controller(f"SATA {controller}", "sata")
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(VDI)
            editor.attach(f"SATA {controller}", port, 0, "hdd", path)

    return change


def test_deleting_takes_disks_that_are_only_the_machines_own(
    registry: Registry, tmp_path: Path
) -> None:
    first = registry.register(registry.create("A").path)
    second = registry.register(registry.create("B").path)
    home = first.path.parent
    own, shared, snapshot = (home / n for n in ("a.vdi", "b.vdi", "Snapshots/c.vdi"))
    far, link, target = (tmp_path / "d.vdi", home / "e.vdi", tmp_path / "e.vdi")
    target.touch()
    link.symlink_to(target)
    paths = (own, shared, snapshot, far, link, home / "../B/f.vdi")
    registry.edit(first, disks(*paths))
    registry.edit(second, disks(shared))
    (home / "Logs").mkdir()
    (home / "Logs" / "VBox.log").touch()
    (home / "A-1.12-linux.vbox").touch()
    (home / "notes.txt").touch()
    done = registry.unregister("A", delete=True, disks=True)
    copies = (home / "A.vbox", home / "A.vbox-prev", home / "A-1.12-linux.vbox")
    assert set(done.deleted) == {own, snapshot, *copies}
    assert set(done.kept) == {shared, far, target, second.path.parent / "f.vdi"}
    left = {path.name for path in home.iterdir()}
    assert left == {"b.vdi", "e.vdi", "notes.txt"}
    assert all(path.exists() for path in done.kept)
    assert not any(path.exists() for path in done.deleted)
    kept = registry.unregister("B", delete=True).kept
    assert kept == (shared,)  # wherever it is
    assert (tmp_path / "vms" / "B" / "f.vdi").exists()


def test_deleting_takes_no_file_that_settings_only_call_a_disk(
    registry: Registry, tmp_path: Path
) -> None:
    """A .vbox file from anywhere, unpacked beside what is dear to somebody."""
    entry = registry.register(registry.create("A").path)
    home = entry.path.parent
    texts = [home / name for name in ("id_rsa", "b.vdi", "c.vmdk", "d.vhd")]
    odd, fifo = home / "f.img", home / "h.vdi"
    images = {
        home / "i.vdi": VDI,
        home / "j.vmdk": b"# Disk DescriptorFile\nversion=1\n",
        home / "k.vmdk": b"KDMV\1\0\0\0",
        home / "m.vhd": bytes(1024) + b"conectix".ljust(512),  # fixed
        home / "n.qcow2": b"QFI\xfb\0\0\0\3",
        home / "o.img": bytes(1024),
        home / "p.raw": bytes(512),
    }
    registry.edit(entry, disks(*texts, odd, fifo, *images))
    for path in texts:
        path.write_bytes(b"dear".ljust(512))
    odd.write_bytes(bytes(513))
    fifo.unlink()
    os.mkfifo(fifo)
    for path, data in images.items():
        path.write_bytes(data)
    logs = home / "Logs"
    logs.mkdir()
    for name in ("VBox.log", "VBox.log.2", "VBoxHardening.log", "mine.txt"):
        (logs / name).touch()
    done = registry.unregister("A", delete=True, disks=True)
    assert {p for p in done.deleted if ".vbox" not in p.name} == images.keys()
    assert set(done.strange) == {*texts, odd, fifo}
    assert done.kept == ()
    assert {p.name for p in home.iterdir()} == {p.name for p in done.strange} | {"Logs"}
    assert os.listdir(logs) == ["mine.txt"]


def test_deleting_follows_no_link_to_logs(registry: Registry, tmp_path: Path) -> None:
    entry = registry.register(registry.create("A").path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "VBox.log").touch()
    (entry.path.parent / "Logs").symlink_to(other)
    registry.unregister("A", delete=True)
    assert (other / "VBox.log").exists()


def test_disks_stay_unless_they_are_to_go(registry: Registry) -> None:
    entry = registry.register(registry.create("A").path)
    path = entry.path.parent / "disk.vdi"
    registry.edit(entry, disks(path))
    assert registry.unregister("A", disks=True).deleted == ()
    registry.register(entry.path)
    assert registry.unregister("A", delete=True).kept == (path,)
    assert os.listdir(path.parent) == ["disk.vdi"]


def test_deleting_asks_other_machines_where_their_disks_are(
    registry: Registry,
) -> None:
    entries = [registry.register(registry.create(name).path) for name in "ABC"]
    for entry in entries:
        path = entry.path.parent / "disk.vdi"
        registry.edit(entry, disks(path))
    entries[1].path.write_text("unreadable")  # its disks may be those of A
    done = registry.unregister("A", delete=True, disks=True)
    assert [path.name for path in done.kept] == ["disk.vdi"]
    entries[1].path.unlink()  # a machine that is gone has none
    done = registry.unregister("C", delete=True, disks=True)
    assert done.kept == ()
    assert not entries[2].path.parent.exists()


def test_machines_in_one_folder_keep_their_logs(registry: Registry) -> None:
    first = registry.register(registry.create("A").path)
    other = first.path.with_name("B.vbox")
    shutil.copy(registry.create("B").path, other)
    registry.register(other)
    logs = first.path.parent / "Logs"
    logs.mkdir()
    registry.unregister("A", delete=True)
    assert other.exists()
    assert logs.exists()
    registry.unregister("B", delete=True)
    assert not logs.parent.exists()


def test_edits_are_all_or_nothing(registry: Registry) -> None:
    entry = registry.register(registry.create("A").path)
    before = entry.path.read_bytes()

    def change(editor: object) -> None:
        editor.set_memory(64)  # type: ignore[attr-defined]
        raise SettingsError("and no further")

    with pytest.raises(SettingsError, match="no further"):
        registry.edit(entry, change)
    assert entry.path.read_bytes() == before
    machine = registry.edit(entry, lambda e: e.set_vrde(True))
    assert machine.remote_display.enabled


def test_a_raised_version_leaves_a_copy(registry: Registry) -> None:
    entry = registry.register(registry.create("A").path)
    data = entry.path.read_bytes().replace(b"1.18-linux", b"1.10-linux")
    entry.path.write_bytes(data)
    registry.edit(entry, lambda e: e.set_usb("XHCI", True))
    assert entry.path.with_name("A-1.10-linux.vbox").read_bytes() == data
    assert b'version="1.15-linux"' in entry.path.read_bytes()


def test_global_things(registry: Registry) -> None:
    assert registry.get_property("VRDEAuthLibrary") in ("", "VBoxAuth")
    registry.set_property("VRDEAuthLibrary", "VBoxAuthSimple")
    assert registry.get_property("VRDEAuthLibrary") == "VBoxAuthSimple"
    registry.set_extra("k", "1")
    registry.set_extra("k", "2")
    registry.set_extra("gone", "1")
    registry.set_extra("gone", "")
    assert registry.extra_data() == {"k": "2"}
    hold = Filter(name="mine", vendor_id="0951", action="Hold")
    registry.change_filters(lambda found: found.append(hold))
    registry.change_filters(lambda found: found.insert(0, Filter(name="all")))
    assert [(f.name, f.action) for f in registry.filters()] == [
        ("all", "Ignore"),
        ("mine", "Hold"),
    ]


GLOBAL = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-linux">
  <Global new="x">
    <ExtraData>
      <ExtraDataItem name="GUI/b" value="1"/>
    </ExtraData>
    <USBDeviceFilters>
      <!-- the first -->
      <DeviceFilter action='Hold' x='1' name='one' active='yes' vendorId='46d'/>
      <DeviceFilter name="two" active="true" remote="any" product="P*" action="Ignore"/>
      <DeviceFilter name="dropped"/>
      <!-- the last -->
      <DeviceFilter name="three" active="0" action="Ignore"><X/></DeviceFilter>
    </USBDeviceFilters>
  </Global>
</VirtualBox>
"""


def write_global(registry: Registry, text: str = GLOBAL) -> None:
    registry.home.mkdir(exist_ok=True)
    registry.path.write_text(text)


def test_global_filters_change_one_by_one(registry: Registry) -> None:
    write_global(registry)
    one, two, _ = registry.filters()
    assert (one.action, one.vendor_id, two.remote, two.product) == (
        *("Hold", "046D"),
        *("", "P*"),  # D2
    )
    line = '      <DeviceFilter name="new" active="true" action="Ignore"/>\n'
    new = Filter("new")

    def check(change: Callable[[list[Filter]], None], old: str, now: str) -> None:
        write_global(registry)
        registry.change_filters(change)
        assert registry.path.read_text() == GLOBAL.replace(old, now, 1)

    third = '      <DeviceFilter name="three"'
    first = "      <DeviceFilter action="
    after = "    </USBDeviceFilters>"
    check(lambda found: found.insert(0, new), first, line + first)
    check(lambda found: found.insert(2, new), third, line + third)
    check(lambda found: found.insert(99, new), after, line + after)  # D7
    check(lambda found: found.append(new), after, line + after)
    lines = GLOBAL.splitlines(keepends=True)
    check(lambda found: found.__delitem__(0), lines[8], "")
    check(lambda found: found.__delitem__(1), lines[9], "")
    check(lambda found: found.__delitem__(2), lines[12], "")
    changed = Filter("one", vendor_id="046D", product="Q", action="Hold")
    check(
        lambda found: found.__setitem__(0, changed),
        "vendorId='46d'",
        "vendorId='46d' product=\"Q\"",
    )
    write_global(registry)
    registry.change_filters(list.clear)
    assert registry.filters() == []
    for word in ("dropped", "<!-- the first -->", "<!-- the last -->"):
        assert word in registry.path.read_text()


def test_a_wrong_global_filter_ends_the_list(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    text = GLOBAL.replace('product="P*"', 'productId="word"')
    write_global(registry, text)
    assert [f.name for f in registry.filters()] == ["one"]
    assert 'line 10: USB filter 1 "two": productId' in caplog.text
    registry.change_filters(lambda found: found.insert(9, Filter("new")))
    assert [f.name for f in registry.filters()] == ["one", "new"]
    registry.change_filters(lambda found: found.__delitem__(1))
    assert registry.path.read_text() == text


def test_old_names_of_properties_are_read_and_written(registry: Registry) -> None:
    node = '<SystemProperties remoteDisplayAuthLibrary="old"/>'
    for version in ("1.10", "1.11"):
        text = GLOBAL.replace("1.12", version).replace("<ExtraData>", node, 1)
        write_global(registry, text.replace("</ExtraData>", "", 1))
        assert registry.get_property("VRDEAuthLibrary") == "old"
        registry.set_property("VRDEAuthLibrary", "new")
        assert registry.get_property("VRDEAuthLibrary") == "new"
        name = "remoteDisplayAuthLibrary" if version == "1.10" else "VRDEAuthLibrary"
        assert f'<SystemProperties {name}="new"/>' in registry.path.read_text()


def test_global_extra_data_is_in_order_and_checked(registry: Registry) -> None:
    write_global(registry)
    registry.set_extra("GUI/c", "3")
    registry.set_extra("GUI/a", "2")
    assert list(registry.extra_data()) == ["GUI/a", "GUI/b", "GUI/c"]
    registry.set_extra("GUI/a", "")
    registry.set_extra("GUI/c", "")
    assert registry.path.read_text() == GLOBAL
    with pytest.raises(SettingsError, match="invalid extra data key"):
        registry.set_extra("a\tb", "1")


def test_where_new_machines_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(home=tmp_path / "home")
    monkeypatch.delenv("RUSB_MACHINE_FOLDER", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert registry.machine_folder == tmp_path / "data" / "rusb" / "VirtualBox VMs"
    registry.set_property("defaultMachineFolder", str(tmp_path / "kept"))
    assert registry.machine_folder == tmp_path / "kept"
    monkeypatch.setenv("RUSB_MACHINE_FOLDER", str(tmp_path / "named"))
    assert registry.machine_folder == tmp_path / "named"


def _work(folder: Path, number: int) -> None:
    registry = Registry(folder / "vms", folder / "home")
    for n in range(5):
        registry.register(registry.create(f"VM {number} {n}").path)


def test_several_processes_register_at_once(tmp_path: Path, registry: Registry) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len({entry.uuid for entry in registry.machines()}) == 15


def _edit(folder: Path, number: int) -> None:
    registry = Registry(folder / "vms", folder / "home")
    for n in range(10):
        entry = registry.find("A")
        registry.edit(entry, lambda e: e.set_extra(f"{number}/{n}", "1"))  # noqa: B023
        registry.change_filters(
            lambda found: found.append(Filter(f"{number}/{n}"))  # noqa: B023
        )


def test_several_processes_edit_at_once(tmp_path: Path, registry: Registry) -> None:
    registry.register(registry.create("A").path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_edit, args=(tmp_path, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    machine = registry.find("A").machine
    assert machine is not None
    assert len(machine.extra_data) == len(registry.filters()) == 20
