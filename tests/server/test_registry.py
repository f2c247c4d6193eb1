"""The list of machines, and what else the installation remembers."""

import multiprocessing
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.server.machine.registry import Registry


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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "x" * 300])
def test_names_that_are_no_folders(registry: Registry, name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be the name"):
        registry.create(name)


def test_the_same_name_twice(registry: Registry, tmp_path: Path) -> None:
    registry.register(registry.create("A").path)
    with pytest.raises(SettingsError, match="already exists"):
        registry.create("A")
    other = registry.create("A", folder=str(tmp_path / "elsewhere"))
    with pytest.raises(SettingsError, match="named 'A' is registered"):
        registry.register(other.path)


def test_a_machine_whose_file_is_gone_is_listed(registry: Registry) -> None:
    made = registry.register(registry.create("A").path)
    made.path.unlink()
    (entry,) = registry.machines()
    assert entry.name == "<inaccessible>"
    assert "cannot read" in entry.problem
    assert registry.find(made.uuid).machine is None
    registry.unregister(made.uuid)
    assert registry.machines() == []


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
