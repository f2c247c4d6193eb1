"""Delete the files of a machine that is no longer registered, and nothing else."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import SettingsError
from rusb.oserrors import reason

from .document import Document
from .drives import is_image, media
from .files import read_file, waiting_path
from .settings import machine_node

__all__ = ["Removal", "delete_files"]

_LOG = re.compile(r"VBox(Hardening|UI)?\.log(\.[0-9]+)?")
"""Logs that rusb or VirtualBox wrote for a machine."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the files of a machine.

    Attributes:
        deleted: those that were deleted.
        kept: images of its hard disks that were not.
        strange: what its settings call hard disks, and is none.
    """

    deleted: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    strange: tuple[Path, ...] = ()


def delete_files(path: Path, others: Sequence[Path], *, disks: bool) -> Removal:
    """Delete settings and logs of a machine, and its folder if nothing is left.

    Args:
        path: of its settings, which may come from anybody.
        others: settings of the machines that stay.
        disks: delete the images of its hard disks, too, that lie in its folder, that
            no other machine has, and that are images indeed.

    Raises:
        SettingsError: a file cannot be deleted.
    """
    folder = Path(os.path.realpath(path.parent))
    named: list[Path] = []
    with contextlib.suppress(SettingsError):
        named = sorted(set(_hard_disks(path)))
    images = [image for image in named if is_image(image)]
    used = _in_use(others) if disks else None
    ours = []
    if used is not None:
        ours = [i for i in images if folder in i.parents and i not in used]
    files = [file for file in (*_settings_files(path), *ours) if file.is_file()]
    logs = folder / "Logs"
    is_shared = any(folder == Path(os.path.realpath(o.parent)) for o in others)
    has_logs = logs.is_dir() and not logs.is_symlink() and not is_shared
    old = [p for p in logs.iterdir() if _LOG.fullmatch(p.name)] if has_logs else []
    try:
        for file in (*files, *old):
            file.unlink()
        for place in (*{image.parent for image in ours}, *[logs] * has_logs, folder):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
    except OSError as error:
        raise SettingsError(
            f"the machine is no longer registered, but {error.filename} cannot be"
            f" deleted: {reason(error)}"
        ) from error
    return Removal(
        tuple(files),
        kept=tuple(image for image in images if image not in ours),
        strange=tuple(p for p in named if p not in images and os.path.lexists(p)),
    )


def _hard_disks(path: Path) -> list[Path]:
    """Return where the images of a machine's hard disks are."""
    document = Document(read_file(path), str(path))
    nodes = media(machine_node(document), "HardDisks")
    places = [path.parent / node.attributes["location"] for node in nodes]
    return [Path(os.path.realpath(place)) for place in places]


def _in_use(others: Sequence[Path]) -> set[Path] | None:
    """Return the images of other machines; None: that cannot be known."""
    found: set[Path] = set()
    for other in others:
        try:
            found.update(_hard_disks(other))
        except SettingsError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                return None
    return found


def _settings_files(path: Path) -> Iterator[Path]:
    """Yield a machine's file, those beside it, and the copies of older versions."""
    for end in ("", "-prev", "-tmp"):
        yield path.with_name(path.name + end)
    yield waiting_path(path)
    copy = re.compile(re.escape(path.stem) + r"-[0-9]+\.[0-9]+-[a-z0-9]+\.vbox")
    if path.parent.is_dir():
        for other in sorted(path.parent.iterdir()):
            if copy.fullmatch(other.name):
                yield other
