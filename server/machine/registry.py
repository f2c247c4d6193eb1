"""Where machines live: a folder, and a file that lists them (filters.md 2.2, global).

``VirtualBox.xml`` in the configuration folder keeps the list, the global filters, the
global extra data and the properties of the installation.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import Filter
from rusb.filters.store import from_attributes, to_attributes

from .document import Document, Node
from .editor import Editor, new_machine
from .files import change_file, locked_folder, write_file
from .settings import Machine, load_machine

__all__ = ["Entry", "Registry"]

FILE = "VirtualBox.xml"

_NEW = b"""<?xml version="1.0"?>
<!-- What rusb knows of this user's machines. -->
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-linux">
  <Global>
    <MachineRegistry/>
    <SystemProperties VRDEAuthLibrary="VBoxAuth"/>
  </Global>
</VirtualBox>
"""

_BAD_NAMES = ("", ".", "..")


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered machine.

    Attributes:
        machine: its settings; None: they cannot be read, *problem* says why.
    """

    uuid: str
    path: Path
    machine: Machine | None
    problem: str = ""

    @property
    def name(self) -> str:
        """Its name, or what stands for one."""
        return self.machine.name if self.machine else "<inaccessible>"


class Registry:
    """The machines of a user. Each change is on disk when the call returns.

    Args:
        folder: for new machines; None: ``RUSB_MACHINE_FOLDER``, the property
            ``machinefolder``, or ``VirtualBox VMs`` in the data folder.
        home: of the list; None: ``RUSB_HOME`` or ``rusb`` in the configuration folder.
    """

    def __init__(self, folder: Path | None = None, home: Path | None = None) -> None:
        self._folder = folder
        named = os.environ.get("RUSB_HOME")
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        self.home = home or (Path(named) if named else Path(base) / "rusb")
        self.path = self.home / FILE

    # ------------------------------------------------------------ machines ----

    @property
    def machine_folder(self) -> Path:
        """Where new machines go."""
        if self._folder is not None:
            return self._folder
        named = os.environ.get("RUSB_MACHINE_FOLDER")
        if named:
            return Path(named)
        if kept := self.get_property("defaultMachineFolder"):
            return Path(kept)
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(base) / "rusb" / "VirtualBox VMs"

    def machines(self) -> list[Entry]:
        """Every registered machine, in the order of registration."""
        return [_entry(node) for node in self._nodes("MachineRegistry", "MachineEntry")]

    def find(self, text: str) -> Entry:
        """Find a machine by its UUID, its name, or the path of its file.

        Raises:
            SettingsError: there is none, or several of that name.
        """
        entries = self.machines()
        wanted = text.strip("{}").lower()
        for entry in entries:
            if entry.uuid == wanted:
                return entry
        named = [e for e in entries if e.machine and e.machine.name == text]
        if len(named) == 1:
            return named[0]
        if named:
            raise SettingsError(f"several machines are named {text!r}; use a UUID")
        path = Path(text)
        if path.suffix == ".vbox" and path.exists():
            machine = load_machine(path)
            return Entry(machine.uuid, path.absolute(), machine)
        raise SettingsError(
            f"could not find a registered machine named {text!r}; 'list vms' shows"
            " those that there are"
        )

    def create(self, name: str, os_type: str = "Other", folder: str = "") -> Entry:
        """Make the settings of a new machine; it is not registered yet.

        Raises:
            SettingsError: the name cannot be a folder's, or is taken.
        """
        if name in _BAD_NAMES or "/" in name or "\0" in name or len(name) > 200:
            raise SettingsError(f"{name!r} cannot be the name of a machine's folder")
        home = (Path(folder) if folder else self.machine_folder) / name
        path = home.absolute() / f"{name}.vbox"
        home.mkdir(parents=True, exist_ok=True)
        number, data = new_machine(name, os_type)
        with locked_folder(home):
            if path.exists():
                raise SettingsError(f"machine settings file {path} already exists")
            write_file(path, data)
        return Entry(number, path, load_machine(path))

    def register(self, path: Path) -> Entry:
        """Put a machine on the list.

        Raises:
            SettingsError: its settings cannot be used, or it, or one of its name, is
                on the list.
        """
        machine = load_machine(path.absolute())
        if not machine.uuid:
            raise SettingsError(f"{path}: the machine has no uuid")
        entry = Entry(machine.uuid.lower(), path.absolute(), machine)

        def change(document: Document) -> None:
            known = [_entry(node) for node in _machines(document)]
            if any(e.uuid == entry.uuid for e in known):
                raise SettingsError(
                    f"a machine with UUID {{{entry.uuid}}} is registered already"
                )
            if any(e.name == machine.name for e in known):
                raise SettingsError(
                    f"a machine named {machine.name!r} is registered already"
                )
            attributes = {"uuid": f"{{{entry.uuid}}}", "src": str(entry.path)}
            parent = document.ensure("Global", "MachineRegistry")
            document.add(parent, "MachineEntry", attributes)

        self._change(change)
        return entry

    def unregister(self, text: str, *, delete: bool = False) -> Entry:
        """Take a machine off the list.

        Args:
            text: what :meth:`find` takes.
            delete: remove its settings and logs, and its folder if nothing is left.

        Raises:
            SettingsError: there is no such machine.
        """
        entry = self.find(text)

        def change(document: Document) -> None:
            for node in _machines(document):
                if node.attributes["uuid"].strip("{}").lower() == entry.uuid:
                    document.remove(node)
                    return
            raise SettingsError(f"machine {text!r} is not registered")

        self._change(change)
        if delete:
            for extra in ("", "-prev", "-tmp"):
                Path(f"{entry.path}{extra}").unlink(missing_ok=True)
            shutil.rmtree(entry.path.parent / "Logs", ignore_errors=True)
            if not any(entry.path.parent.iterdir()):
                entry.path.parent.rmdir()
        return entry

    def edit(self, entry: Entry, change: Callable[[Editor], None]) -> Machine:
        """Change a machine's settings, all or nothing; return them as they are now.

        Raises:
            SettingsError: what *change* raises, or writing failed.
        """

        def apply(data: bytes) -> bytes:
            editor = Editor(Document(data, str(entry.path)))
            change(editor)
            if editor.raised_from is not None:
                old = f"{entry.path.stem}-{editor.raised_from}.vbox"
                copy = entry.path.with_name(old)
                if not copy.exists():
                    write_file(copy, data)
            return editor.document.data

        change_file(entry.path, apply)
        return load_machine(entry.path)

    # -------------------------------------------------------------- global ----

    def get_property(self, name: str) -> str:
        """Return an attribute of SystemProperties; empty: unset."""
        document = self._document()
        node = document.find("Global", "SystemProperties")
        return node.attributes.get(name, "") if node else ""

    def set_property(self, name: str, value: str) -> None:
        """Set it; empty removes it."""

        def change(document: Document) -> None:
            node = document.ensure("Global", "SystemProperties")
            document.set(node, name, value or None)

        self._change(change)

    def extra_data(self) -> dict[str, str]:
        """The global extra data."""
        return {
            node.attributes.get("name", ""): node.attributes.get("value", "")
            for node in self._nodes("ExtraData", "ExtraDataItem")
        }

    def set_extra(self, key: str, value: str) -> None:
        """Set a key of it; empty removes it."""

        def change(document: Document) -> None:
            parent = document.ensure("Global", "ExtraData")
            for node in parent.all("ExtraDataItem"):
                if node.attributes.get("name") == key:
                    if value:
                        document.set(node, "value", value)
                    else:
                        document.remove(node)
                    return
            if value:
                attributes = {"name": key, "value": value}
                document.add(parent, "ExtraDataItem", attributes)

        self._change(change)

    def filters(self) -> list[Filter]:
        """The global filters, in order.

        Raises:
            SettingsError: one of them is wrong.
        """
        return [f for f in map(_filter, self._filter_nodes()) if f is not None]

    def change_filters(self, change: Callable[[list[Filter]], None]) -> None:
        """Change the list of global filters in place."""

        def apply(document: Document) -> None:
            parent = document.ensure("Global", "USBDeviceFilters")
            found = [f for f in map(_filter, parent.children) if f is not None]
            change(found)
            while (parent := document.ensure("Global", "USBDeviceFilters")).children:
                document.remove(parent.children[0])
            for given in found:
                parent = document.ensure("Global", "USBDeviceFilters")
                attributes = to_attributes(given, is_global=True)
                document.add(parent, "DeviceFilter", attributes)

        self._change(apply)

    # ------------------------------------------------------------- our own ----

    def _filter_nodes(self) -> list[Node]:
        return self._nodes("USBDeviceFilters", "DeviceFilter")

    def _document(self) -> Document:
        data = self.path.read_bytes() if self.path.exists() else _NEW
        return Document(data, str(self.path))

    def _nodes(self, parent: str, name: str) -> list[Node]:
        found = self._document().find("Global", parent)
        return list(found.all(name)) if found else []

    def _change(self, change: Callable[[Document], None]) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            with locked_folder(self.home):
                if not self.path.exists():
                    write_file(self.path, _NEW)

        def apply(data: bytes) -> bytes:
            document = Document(data, str(self.path))
            change(document)
            return document.data

        change_file(self.path, apply)


def _machines(document: Document) -> list[Node]:
    parent = document.find("Global", "MachineRegistry")
    found = parent.all("MachineEntry") if parent else ()
    return [n for n in found if n.attributes.get("uuid") and n.attributes.get("src")]


def _entry(node: Node) -> Entry:
    number = node.attributes.get("uuid", "").strip("{}").lower()
    path = Path(node.attributes.get("src", ""))
    try:
        return Entry(number, path, load_machine(path))
    except SettingsError as error:
        return Entry(number, path, None, str(error))


def _filter(node: Node) -> Filter | None:
    try:
        return from_attributes(node.attributes)
    except FilterError as error:
        name = node.attributes.get("name", "")
        raise SettingsError(f"global USB filter {name!r}: {error}") from error
