"""Find plugins: modules in plugin folders, and entry points of installed packages.

A module in a plugin folder is a plugin of that name. Another package brings one by an
entry point of :data:`GROUPS`, which has the plugin's name and leads to what would be
``PLUGIN`` in a module of ours. Nothing is imported until it is asked for by name.

A plugin may need an extra of its package: the one that its entry point names in
brackets, or else the one that has the plugin's name.
"""

import ast
import importlib
import importlib.util
import logging
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import TYPE_CHECKING, Self

from rusb import __version__
from rusb.errors import PluginError
from rusb.oserrors import reason

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

__all__ = ["GROUPS", "Plugin", "find", "load", "load_file", "names", "tell"]

log = logging.getLogger(__name__)

GROUPS = {
    "wire": "rusb.wires",
    "backends": "rusb.backends",
    "guests": "rusb.guests",
}
"""The group of entry points beside each plugin folder, by the folder's name."""

_EXTRA = re.compile(r"""([\w.-]+)[^;]*;\s*extra\s*==\s*["']([\w.-]+)["']""")
"""A requirement of an extra alone; one with other conditions is not judged."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that can be named.

    Attributes:
        name: what it is called on the command line.
        package: the installed package that it is of.
        version: of the package.
        install: the command that installs what is missing; None if nothing is.
    """

    name: str
    package: str
    version: str
    install: str | None


@dataclass(frozen=True, slots=True)
class _Package:
    """An installed package, and what it and its extras require."""

    name: str
    version: str
    requires: tuple[str, ...] = ()

    @classmethod
    def read(cls, found: "Distribution") -> Self:
        return cls(found.name, found.version, tuple(found.requires or ()))

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry point, and who has it."""

    point: "EntryPoint"
    package: _Package


def names(folder: ModuleType) -> list[str]:
    """Return the names of all plugins of package *folder*, importing none of them."""
    return sorted({*_own(folder), *_others(folder)})


def find(folder: ModuleType) -> list[Plugin]:
    """Return all plugins of package *folder* by name, importing none of them."""
    ours = _ourselves()
    found = [
        (name, ours, _install(ours, [name]) or _install_programs(folder, name))
        for name in _own(folder)
    ]
    for name, entries in _others(folder).items():
        found += [
            (name, e.package, _install(e.package, _extras(e.point))) for e in entries
        ]
    plugins = [
        Plugin(name, package.name, package.version, install)
        for name, package, install in found
    ]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.package))


def load(folder: ModuleType, name: str) -> object:
    """Import plugin *name* of package *folder* and return its ``PLUGIN``.

    Raises:
        PluginError: there is no such plugin, it needs what is not installed, or it is
            broken.
    """
    kind = _short(folder)
    if name in _own(folder):
        module = _load_own(folder, name)
        if not hasattr(module, "PLUGIN"):
            raise PluginError(f"{module.__name__} does not define PLUGIN")
        plugin: object = module.PLUGIN
        return plugin
    others = _others(folder)
    if name not in others:
        known = ", ".join(names(folder))
        raise PluginError(f"{kind}: there is no {name!r}; choose one of {known}")
    entry, *more = others[name]
    if more:
        owners = " and ".join(str(e.package) for e in others[name])
        raise PluginError(f"{kind}: {owners} all have {name!r}; uninstall all but one")
    try:
        loaded: object = entry.point.load()
    except Exception as error:  # whatever other people's code does when imported
        if isinstance(error, ImportError):
            _explain(kind, name, error, _install(entry.package, _extras(entry.point)))
        text = f"{name!r} of {entry.package} cannot be loaded: {tell(error)}"
        raise PluginError(f"{kind}: {text}") from error
    return loaded


def load_file(path: Path, name: str) -> object:
    """Run the Python file at *path* and return what it calls *name*.

    Raises:
        PluginError: it cannot be read, it fails, or it has no such name.
    """
    spec = importlib.util.spec_from_file_location(f"rusb_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise PluginError(f"{path} cannot be read: {reason(error)}") from error
    except Exception as error:  # whatever people's own code does when it runs
        raise PluginError(f"{path} cannot be loaded: {tell(error)}") from error
    if not hasattr(module, name):
        raise PluginError(f"{path} does not define {name!r}")
    found: object = getattr(module, name)
    return found


def _short(folder: ModuleType) -> str:
    return folder.__name__.rpartition(".")[2]


def _own(folder: ModuleType) -> list[str]:
    found = (module.name for module in pkgutil.iter_modules(folder.__path__))
    return sorted(n for n in found if n != "base" and not n.startswith("_"))


def _load_own(folder: ModuleType, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{folder.__name__}.{name}")
    except ImportError as error:
        _explain(_short(folder), name, error, _install(_ourselves(), [name]))
        raise


def _others(folder: ModuleType) -> dict[str, list[_Entry]]:
    """Return what installed packages bring; a name of ours stays ours."""
    own = _own(folder)
    found: dict[str, list[_Entry]] = {}
    for entry in _entries(GROUPS.get(_short(folder), "")):
        if entry.point.name not in own:
            found.setdefault(entry.point.name, []).append(entry)
    return found


def _entries(group: str) -> Iterator[_Entry]:
    # importing it takes as long as some commands: only where plugins are looked for
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        try:
            points = [p for p in distribution.entry_points if p.group == group]
            if not points:
                continue
            package = _Package.read(distribution)
        except Exception:  # whatever is in other people's files
            log.warning("a package's metadata cannot be read", exc_info=True)
            continue
        if package.name not in seen:  # else it is installed twice; the first counts
            seen.add(package.name)
            yield from (_Entry(point, package) for point in points)


def _extras(point: "EntryPoint") -> list[str]:
    """Return the extras that a plugin needs: ``module:NAME [extra, extra]``."""
    _, _, inside = point.value.partition("[")
    listed = [extra.strip() for extra in inside.rstrip("] ").split(",")]
    return listed if inside else [point.name]


def _ourselves() -> _Package:
    from importlib import metadata

    try:
        return _Package.read(metadata.distribution("rusb"))
    except metadata.PackageNotFoundError:  # a checkout alone
        return _Package("rusb", __version__)


def _install(package: _Package, extras: list[str]) -> str | None:
    """Return the command that installs what these extras lack; None: nothing."""
    from importlib import metadata

    lacking = set()
    for requirement in package.requires:
        match = _EXTRA.fullmatch(requirement.strip())
        if match is None or match[2] not in extras:
            continue
        try:
            metadata.version(match[1])
        except metadata.PackageNotFoundError:
            lacking.add(match[2])
    wanted = f"{package.name}[{','.join(sorted(lacking))}]"
    command = [sys.executable, "-m", "pip", "install", wanted]
    return shlex.join(command) if lacking else None


def _install_programs(folder: ModuleType, name: str) -> str | None:
    """Return the command that installs, at Debian, programs that are not there.

    A module of ours names them in ``PROGRAMS``, each with its package: a dict without
    anything to work out, for nothing is imported.
    """
    spec = importlib.util.find_spec(f"{folder.__name__}.{name}")
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="PROGRAMS")], value=value):
                wanted: dict[str, str] = ast.literal_eval(value)
                lacking = {p for program, p in wanted.items() if not which(program)}
                command = "apt-get install --no-install-recommends"
                return f"{command} {' '.join(sorted(lacking))}" if lacking else None
    return None


def _explain(kind: str, name: str, error: ImportError, command: str | None) -> None:
    """Raise PluginError if a command would install what is missing."""
    if command is not None:
        raise PluginError(
            f"{kind}: {name!r} needs packages that are not installed ({error});"
            f" install them with: {command}"
        ) from error


def tell(error: Exception) -> str:
    """Say what went wrong in other people's code, and where."""
    log.debug("not our code", exc_info=error)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = ""
    if place is not None and not isinstance(error, SyntaxError):
        file = Path(place.tb_frame.f_code.co_filename).name
        where = f" ({file}, line {place.tb_lineno})"
    return f"{type(error).__name__}: {error}{where}"
