"""Where machines live: a folder, and a file that lists them (filters.md 2.2, global).

``VirtualBox.xml`` in the configuration folder keeps the list, the global filters, the
global extra data and the properties of the installation.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import ControlError, SettingsError
from rusb.filters.model import Filter
from rusb.paths import user_folder

from .document import Document, Node, escape
from .files import (
    change_file,
    locked_folder,
    made_folder,
    make_folder,
    read_file,
    waiting_path,
    write_file,
)
from .filter_list import FilterList
from .lock import settings_in_use
from .settings import (
    NAMESPACES,
    PROPERTIES_SINCE,
    Machine,
    load_machine,
    parse_version,
    read_machine,
    read_pairs,
)

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:  # most commands change nothing
    from .editor import Editor
    from .removal import Removal

__all__ = ["CodedError", "Entry", "Registry", "check_free", "check_name"]

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

MAX_NAME = 200
"""Bytes of a machine's name; names of files have at most 255."""

_OLD_PROPERTIES = {"VRDEAuthLibrary": "remoteDisplayAuthLibrary"}
"""Properties of the installation and their names before PROPERTIES_SINCE (2.8)."""


NOT_FOUND = "VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)"
EXISTS = "VBOX_E_FILE_ERROR (0x80bb0004), VERR_ALREADY_EXISTS"


class CodedError(SettingsError):
    """One that programs know by VirtualBox's code.

    Attributes:
        code: its name; Vagrant looks for it in what VBoxManage says.
    """

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


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


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a machine, and of its folder.

    Raises:
        SettingsError: it cannot; the message says why.
    """
    import unicodedata  # only who makes a machine names it

    size = len(name.encode("utf-8", "replace"))
    if size > MAX_NAME:
        why = f"it has {size} bytes; the maximum is {MAX_NAME}"
    elif name in _BAD_NAMES:
        why = "it is empty" if not name else "it names another directory"
    elif "/" in name:
        why = "it has a slash"
    elif any(unicodedata.category(character) == "Cc" for character in name):
        why = "it has control characters"
    elif name.startswith("-"):
        why = "it begins with -, as options do"
    else:
        escape(name)  # XML has to hold it
        return
    raise SettingsError(f"{name!r} cannot be the name of a machine: {why}")


def check_free(name: str, others: Sequence[Entry]) -> None:
    """Refuse the name of another registered machine.

    Raises:
        CodedError: one of *others* has it.
    """
    if any(other.name == name for other in others):
        raise CodedError(f"a machine named {name!r} is registered already", EXISTS)


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
        home = home or (Path(named) if named else None)
        self.home = home or user_folder("XDG_CONFIG_HOME", ".config")
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
        return user_folder("XDG_DATA_HOME", ".local/share") / "VirtualBox VMs"

    def machines(self) -> list[Entry]:
        """Every registered machine, in the order of registration."""
        return [self._entry(node) for node in _machines(self._document())]

    def running_unlisted(self) -> list[Entry]:
        """Those that run, and are not on the list: ``rusb serve`` has any file."""
        listed = {entry.uuid for entry in self.machines()}
        found = []
        with contextlib.suppress(ControlError):  # without locks nothing runs
            for path in settings_in_use():
                with contextlib.suppress(SettingsError):
                    found.append(_load_entry(path))
        return [entry for entry in found if entry.uuid not in listed]

    def find(self, text: str) -> Entry:
        """Find a machine by its UUID, its name, or the path of its file.

        One that is not registered is found by its path, and as long as it runs.

        Raises:
            SettingsError: there is none, or several of that name, or the file at the
                path is not a machine's.
        """
        entries = self.machines()
        wanted = text.strip("{}").lower()
        for entry in entries:
            if entry.uuid == wanted:
                return entry
        named = [e for e in entries if e.machine and e.machine.name == text]
        # one that cannot be read has no name but that of its file
        named = named or [e for e in entries if not e.machine and e.path.stem == text]
        if len(named) == 1:
            return named[0]
        if named:
            raise SettingsError(f"several machines are named {text!r}; use a UUID")
        for entry in self.running_unlisted():
            if wanted == entry.uuid or text == entry.name:
                return entry
        path = Path(text)
        if path.suffix == ".vbox" or path.is_absolute():
            place = os.path.realpath(path)
            for entry in entries:
                if os.path.realpath(entry.path) == place:
                    return entry
        if path.suffix == ".vbox" and os.path.exists(path):
            return _load_entry(path)
        raise CodedError(
            f"could not find a registered machine named {text!r}; 'list vms' shows the"
            " registered machines",
            NOT_FOUND,
        )

    def create(self, name: str, os_type: str = "Other", folder: str = "") -> Entry:
        """Make the settings of a new machine; it is not registered yet.

        Raises:
            SettingsError: the name cannot be a folder's, or is taken, or the folder
                cannot be written.
        """
        from .editor import new_machine

        return self.make(
            name, folder, lambda _: nullcontext(new_machine(name, os_type))
        )

    def create_registered(
        self, name: str, os_type: str = "Other", folder: str = ""
    ) -> Entry:
        """Make a new machine and put it on the list, both or nothing.

        Raises:
            SettingsError: as :meth:`create` and :meth:`register`.
        """
        from .editor import new_machine

        new = nullcontext(new_machine(name, os_type))
        return self.make(name, folder, lambda _: new, is_registered=True)

    def make(
        self,
        name: str,
        folder: str,
        settings: Callable[[Path], AbstractContextManager[tuple[str, bytes]]],
        *,
        is_registered: bool = False,
    ) -> Entry:
        """Make a machine and, if it is to be, put it on the list: both or nothing.

        The list decides: its settings wait under another name until the machine is
        on it. If we die in between, whoever reads the list next finishes this.

        Args:
            folder: where its own folder is to be; empty: that of new machines.
            settings: gets its own folder; enters with its UUID and its settings, and
                leaves with the exception that undoes what was made.

        Raises:
            SettingsError: as :meth:`create` and :meth:`register`, and as *settings*.
        """
        with self._new(name, folder, settings) as (entry, data):
            if not is_registered:
                try:
                    write_file(entry.path, data)
                except SettingsError:
                    entry.path.unlink(missing_ok=True)
                    raise
                return entry
            waiting = waiting_path(entry.path)
            waiting.unlink(missing_ok=True)
            try:
                write_file(waiting, data)
                self._add(entry)
            except BaseException:
                waiting.unlink(missing_ok=True)
                raise
            _finish(entry.uuid, entry.path)
        return entry

    @contextlib.contextmanager
    def _new(
        self,
        name: str,
        folder: str,
        settings: Callable[[Path], AbstractContextManager[tuple[str, bytes]]],
    ) -> Iterator[tuple[Entry, bytes]]:
        """Make the place for a new machine, and its settings, which are to be written.

        The folders that were made go again where the block fails.
        """
        check_name(name)
        home = ((Path(folder) if folder else self.machine_folder) / name).absolute()
        path = home / f"{name}.vbox"
        with made_folder(home), locked_folder(home):
            self.machines()  # one that is on the list gets its file
            if path.exists():
                raise SettingsError(f"machine settings file {path} already exists")
            with settings(home) as (number, data):
                machine = read_machine(Document(data, str(path)), path)
                yield Entry(number, path, machine), data

    def register(self, path: Path) -> Entry:
        """Put a machine on the list.

        Raises:
            SettingsError: its settings cannot be used, or it, or one of its name, is
                on the list.
        """
        entry = _load_entry(path)
        self._add(entry)
        return entry

    def _add(self, entry: Entry) -> None:
        def change(document: Document) -> None:
            known = [self._entry(node) for node in _machines(document)]
            if any(e.uuid == entry.uuid for e in known):
                raise SettingsError(
                    f"a machine with UUID {{{entry.uuid}}} is registered already"
                )
            check_free(entry.name, known)
            attributes = {"uuid": f"{{{entry.uuid}}}", "src": str(entry.path)}
            parent = document.ensure("Global", "MachineRegistry")
            document.add(parent, "MachineEntry", attributes)

        self._change(change)

    def unregister(
        self, text: str, *, delete: bool = False, disks: bool = False
    ) -> "Removal":
        """Take a machine off the list.

        Args:
            text: what :meth:`find` takes.
            delete: remove its settings and logs, and its folder if nothing is left.
            disks: with *delete*, remove the images of its hard disks, too, that lie
                in its folder, that no other registered machine has, and that are
                images indeed: settings may come from anybody.

        Raises:
            SettingsError: there is no such machine, or a file cannot be deleted.
        """
        from .removal import Removal, delete_files

        entry = self.find(text)

        def change(document: Document) -> None:
            for node in _machines(document):
                if _uuid(node) == entry.uuid:
                    document.remove(node)
                    return
            raise SettingsError(f"machine {text!r} is not registered")

        self._change(change)
        if not delete:
            return Removal()
        others = [other.path for other in self.machines()]
        return delete_files(entry.path, others, disks=disks)

    def edit(self, entry: Entry, change: Callable[["Editor"], None]) -> Machine:
        """Change a machine's settings, all or nothing; return them as they are now.

        Raises:
            SettingsError: what *change* raises, or the result could not be read
                again, or writing failed.
        """
        from .editor import Editor

        changed: Machine | None = None

        def apply(data: bytes) -> bytes:
            nonlocal changed
            editor = Editor(Document(data, str(entry.path)), entry.path.parent)
            change(editor)
            after = editor.document.data
            changed = read_machine(Document(after, str(entry.path)), entry.path)
            if editor.raised_from is not None:
                old = f"{entry.path.stem}-{editor.raised_from}.vbox"
                copy = entry.path.with_name(old)
                if not copy.exists():
                    write_file(copy, data)
            return after

        change_file(entry.path, apply)
        assert changed is not None
        return changed

    # -------------------------------------------------------------- global ----

    def get_property(self, name: str) -> str:
        """Return an attribute of SystemProperties; empty: unset."""
        node = self._document().find("Global", "SystemProperties")
        given = node.attributes if node else {}
        return given.get(name) or given.get(_OLD_PROPERTIES.get(name, ""), "")

    def set_property(self, name: str, value: str) -> None:
        """Set it; empty removes it."""

        def change(document: Document) -> None:
            node = document.ensure("Global", "SystemProperties")
            names = [name, _OLD_PROPERTIES.get(name, name)]
            version = parse_version(document.root.attributes.get("version", ""))
            written = names[version < PROPERTIES_SINCE]
            for known in names:
                document.set(node, known, value or None if known == written else None)

        self._change(change)

    def extra_data(self) -> dict[str, str]:
        """The global extra data.

        Raises:
            SettingsError: an item of it has no name or no value.
        """
        parent = self._document().find("Global", "ExtraData")
        return read_pairs(parent, "ExtraDataItem")

    def set_extra(self, key: str, value: str) -> None:
        """Set a key of it; empty removes it.

        Raises:
            SettingsError: the key is empty or has control characters.
        """
        from .editor import set_extra

        self._change(lambda document: set_extra(document, "Global", key, value))

    def filters(self) -> list[Filter]:
        """The global filters, in order, up to the first that is wrong."""
        return _filters(self._document()).filters

    def change_filters(self, change: Callable[[list[Filter]], None]) -> None:
        """Change the list of global filters in place; the file where it differs.

        Raises:
            SettingsError: what *change* raises, or there are too many.
        """

        def apply(document: Document) -> None:
            found = _filters(document)
            wanted = list(found.filters)
            change(wanted)
            found.change(wanted)

        self._change(apply)

    # ------------------------------------------------------------- our own ----

    def _document(self) -> Document:
        return self._checked(read_file(self.path) if self.path.exists() else _NEW)

    def _checked(self, data: bytes) -> Document:
        document = Document(data, str(self.path))
        is_ours = (
            document.namespace in NAMESPACES and document.root.name == "VirtualBox"
        )
        if not is_ours or document.find("Global") is None:
            raise SettingsError(
                f"{self.path} is not the list of machines: it has no <Global> in a"
                f" <VirtualBox> of {NAMESPACES[0]}"
            )
        return document

    def _entry(self, node: Node) -> Entry:
        path = self.home / node.attributes["src"]
        if not os.path.exists(path):  # also where we may not look
            _finish(_uuid(node), path)
        try:
            return Entry(_uuid(node), path, load_machine(path))
        except SettingsError as error:
            return Entry(_uuid(node), path, None, str(error))

    def _change(self, change: Callable[[Document], None]) -> None:
        make_folder(self.home, is_private=True)
        if not self.path.exists():
            with locked_folder(self.home):
                if not self.path.exists():
                    write_file(self.path, _NEW)

        def apply(data: bytes) -> bytes:
            document = self._checked(data)
            change(document)
            return document.data

        change_file(self.path, apply)


def _filters(document: Document) -> FilterList:
    parent = document.find("Global", "USBDeviceFilters")
    return FilterList(
        document,
        (parent,),
        lambda: document.ensure("Global", "USBDeviceFilters"),
        is_global=True,
    )


def _uuid(node: Node) -> str:
    return node.attributes["uuid"].strip("{}").lower()


def _load_entry(path: Path) -> Entry:
    """Make the entry of a machine's file.

    Raises:
        SettingsError: it cannot be used, or has no UUID.
    """
    import uuid  # and with it platform: most machines are on the list

    path = path.absolute()
    machine = load_machine(path)
    try:
        return Entry(str(uuid.UUID(machine.uuid)), path, machine)
    except ValueError:
        raise SettingsError(f"{path}: {machine.uuid!r} is not a UUID") from None


def _finish(number: str, path: Path) -> None:
    """Give the settings of a machine on the list their name; two may do it at once."""
    waiting = waiting_path(path)
    with contextlib.suppress(SettingsError, OSError):
        if load_machine(waiting).uuid == number:
            os.replace(waiting, path)


def _machines(document: Document) -> list[Node]:
    parent = document.find("Global", "MachineRegistry")
    found = parent.all("MachineEntry") if parent else ()
    return [n for n in found if n.attributes.get("uuid") and n.attributes.get("src")]
