"""Do two hosts mean the same images on shared storage (teleport.md 5.3)?"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rusb.errors import SettingsError
from rusb.oserrors import reason

from ...vbox.media import capacity
from ...vbox.model import Drive, Hardware, disk_format
from .messages import Image

__all__ = ["check_images", "describe_images"]

PREFIX = ".rusb-teleport-"
_TOKEN = re.compile(re.escape(PREFIX) + "[0-9a-f]{32}")

ENDS = 1 << 20
"""Bytes at each end of a read-only image that are compared."""

PATIENCE, POLL = 3.0, 0.2
"""Seconds until a new file must be seen on storage that is shared over a network."""


@contextlib.contextmanager
def describe_images(hardware: Hardware) -> Iterator[tuple[Image, ...]]:
    """Yield the images of the source; meanwhile their tokens are beside them.

    Raises:
        SettingsError: one cannot be told from others.
    """
    tokens: list[Path] = []
    try:
        yield tuple(
            _describe(place, drive, path, tokens)
            for place, drive, path in _media(hardware)
        )
    finally:
        for token in tokens:
            with contextlib.suppress(OSError):
                token.unlink()


def _media(hardware: Hardware) -> Iterator[tuple[str, Drive, Path]]:
    for bus, drive in hardware.drives():
        if drive.medium is not None:
            yield f"{bus} {drive.port} {drive.device}", drive, drive.medium


def _describe(place: str, drive: Drive, path: Path, tokens: list[Path]) -> Image:
    kind, real = disk_format(path), path.resolve()
    try:
        sort = _sort_of(drive, real)
        token = identity = ""
        if sort == "device":
            identity = _name_of_device(real)
        elif sort == "content":
            identity = _content(real)
        else:
            identity, token = secrets.token_hex(16), PREFIX + secrets.token_hex(16)
            beside = real.parent / token
            with beside.open("x", encoding="ascii") as file:
                tokens.append(beside)
                file.write(identity)
        size = _size(real, sort)
    except OSError as error:
        raise SettingsError(
            f"cannot check that both hosts use the same {path}: {reason(error)}; the"
            " source has to create a file beside it for that"
        ) from error
    name = "" if sort == "device" else real.name
    return Image(place, sort, name, kind, size, identity, token)


def _sort_of(drive: Drive, path: Path) -> str:
    if stat.S_ISBLK(path.stat().st_mode):
        return "device"
    return "content" if drive.kind == "dvd" else "file"


def _size(path: Path, sort: str) -> int:
    """The size that the guest sees: the file of a qcow2 image grows."""
    if sort == "file" and (size := capacity(path)) is not None:
        return size
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _name_of_device(path: Path) -> str:
    """The name that the storage itself has; the same whichever host asks.

    Raises:
        SettingsError: it has none.
    """
    number = path.stat().st_rdev
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    for name in ("device/wwid", "wwid", "device/serial"):
        with contextlib.suppress(OSError):
            if found := (folder / name).read_text(errors="replace").strip():
                return found[:1000]
    raise SettingsError(
        f"{path} is a block device without a name of its own (wwid), so that nothing"
        " tells whether both hosts use the same"
    )


def _content(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(ENDS))
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - ENDS, 0))
        digest.update(file.read(ENDS))
    return digest.hexdigest()


def check_images(images: Sequence[Image], hardware: Hardware) -> list[str]:
    """Return a sentence for each image of the source that the target lacks.

    Blocks for up to PATIENCE seconds.
    """
    ours = {place: (drive, path) for place, drive, path in _media(hardware)}
    found = []
    for image in images:
        if image.place in ours:  # else the profiles differ, too
            problem = _compare(image, *ours[image.place])
            found += [f"Drive {image.place}: {problem}"] if problem else []
    return found


def _compare(image: Image, drive: Drive, path: Path) -> str:
    """Return what is wrong with ours; empty: nothing."""
    real = path.resolve()
    try:
        sort = _sort_of(drive, real)
        if sort != image.sort:
            words = {"device": "a block device", "content": "a read-only image"}
            there, here = (
                words.get(s, "an image in a file") for s in (image.sort, sort)
            )
            return f"{there} at the source, {here} at the target"
        if (here := disk_format(path)) != image.format:
            return f"{image.format} at the source, {here} at the target"
        if (size := _size(real, sort)) != image.size:
            return f"{image.size} bytes at the source, {size} at the target"
        if sort == "device":
            is_same = _name_of_device(real) == image.identity
        elif sort == "content":
            is_same = _content(real) == image.identity
        else:
            is_same = real.name == image.name and _finds_token(real, image)
    except FileNotFoundError:
        return f"the target has no {path}"
    except OSError as error:
        return f"the target cannot read {path}: {reason(error)}"
    except SettingsError as error:
        return str(error)
    if is_same:
        return ""
    return (
        f"the target's {path} is another image than the source's; both hosts must use"
        " the same one on shared storage"
    )


def _finds_token(path: Path, image: Image) -> bool:
    """Is what the source wrote beside its image beside ours?"""
    if not _TOKEN.fullmatch(image.token):
        return False
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            number = os.open(path.with_name(image.token), os.O_RDONLY | os.O_NOFOLLOW)
            with open(number, "rb") as file:
                return file.read(100) == image.identity.encode()
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
