"""Disks and drives: ``createmedium``, ``storagectl``, ``storageattach``."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rusb.cli._vbox_options import Option, UsageError, on_off, unsigned
from rusb.errors import SettingsError
from rusb.server.machine.editor import BUSES, Editor
from rusb.server.machine.qemu_command import disk_format

from ._common import change_stopped, given

__all__ = ["COMMANDS"]

MAX_SIZE = 64 << 20
"""MiB of a disk: 64 TiB."""

_EXTENSIONS = {"vdi": ".vdi", "vmdk": ".vmdk", "vhd": ".vhd", "raw": ".img"}
_TYPES = {"hdd": "hdd", "dvddrive": "dvd", "fdd": "floppy"}
_CREATE = (
    Option("filename"),
    Option("size"),
    Option("sizebyte"),
    Option("format"),
    Option("variant"),
    Option("static", values=0),
)


def createmedium(words: Sequence[str]) -> int:
    """``createmedium [disk] --filename FILE --size MEBIBYTES [--format FORMAT]``."""
    found = given(words, _CREATE)
    kind = found.words[0] if found.words else "disk"
    if len(found.words) > 1 or kind not in ("disk", "dvd", "floppy"):
        raise UsageError(f"unexpected {found.words[-1]!r}")
    if kind != "disk":
        raise SettingsError(f"createmedium {kind}: only disks can be made")
    path = Path(found.need("filename", "where the disk is to be"))
    word = (found.last("format") or "").lower()
    if word and word not in _EXTENSIONS:
        raise UsageError(f"invalid format {word!r}: {', '.join(_EXTENSIONS)}")
    if not path.suffix:
        path = path.with_suffix(_EXTENSIONS[word or "vdi"])
    if word and disk_format(path) != disk_format(Path(f"x{_EXTENSIONS[word]}")):
        raise SettingsError(
            f"{path}: a {word} disk is recognised by its name; call it"
            f" {path.stem}{_EXTENSIONS[word]}"
        )
    if found.has("sizebyte"):
        size = unsigned("--sizebyte", found.need("sizebyte", ""), MAX_SIZE << 20)
    else:
        text = found.need("size", "its size in MiB")
        size = unsigned("--size", text, MAX_SIZE) << 20
    if not size:
        raise UsageError("a disk needs a size")
    is_fixed = found.has("static") or (found.last("variant") or "").lower() == "fixed"
    _make(path.absolute(), size, is_fixed=is_fixed)
    print(f"Medium created: {path.absolute()}")
    return 0


def _make(path: Path, size: int, *, is_fixed: bool) -> None:
    """Run qemu-img; a file that is there stays as it is."""
    program = shutil.which("qemu-img")
    if program is None:
        raise SettingsError(
            "qemu-img is not installed; on Debian: apt-get install qemu-utils"
        )
    if path.exists():
        raise SettingsError(f"{path} exists already; it was not touched")
    kind = disk_format(path)
    command = [program, "create", "-q", "-f", kind]
    if is_fixed and kind in ("vdi", "raw"):
        option = "static=on" if kind == "vdi" else "preallocation=falloc"
        command += ["-o", option]
    command += [str(path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        path.unlink(missing_ok=True)
        raise SettingsError(f"cannot make {path}: {done.stderr.strip()}")


def storagectl(words: Sequence[str]) -> int:
    """``storagectl VM --name NAME --add ide|sata|scsi|floppy|usb|virtio|--remove``."""
    options = (
        Option("name"),
        Option("add"),
        Option("controller"),
        Option("portcount"),
        Option("hostiocache"),
        Option("bootable"),
        Option("rename"),
        Option("remove", values=0),
    )
    found = given(words, options, count=1)
    name = found.need("name", "which controller")
    for flag in ("hostiocache", "bootable"):
        if (value := found.last(flag)) is not None and not on_off(flag, value):
            raise SettingsError(f"--{flag} off: QEMU has no such switch")
    ports = unsigned("--portcount", found.last("portcount") or "0", 30)
    bus = (found.last("add") or "").lower()
    if bus and bus not in BUSES:
        raise SettingsError(f"--add {bus}: there are {', '.join(BUSES)}")

    def change(editor: Editor) -> None:
        if bus:
            editor.add_controller(name, bus, found.last("controller") or "", ports)
        elif found.has("remove"):
            editor.remove_controller(name)
        elif new := found.last("rename"):
            editor.rename_controller(name, new)
        else:
            raise UsageError("nothing to do: --add, --rename or --remove")

    change_stopped(found.words[0], change)
    return 0


def storageattach(words: Sequence[str]) -> int:
    """``storageattach VM --storagectl NAME --port P --device D --medium FILE``."""
    options = (
        Option("storagectl"),
        Option("port"),
        Option("device"),
        Option("type"),
        Option("medium"),
        Option("mtype"),
        Option("comment"),
        Option("hotpluggable"),
        Option("nonrotational"),
    )
    found = given(words, options, count=1)
    for name in ("mtype", "comment", "hotpluggable", "nonrotational"):
        if found.has(name):
            raise SettingsError(f"--{name}: rusb does not keep that of a drive")
    controller = found.need("storagectl", "the name of a storage controller")
    port = unsigned("--port", found.last("port") or "0", 30)
    device = unsigned("--device", found.last("device") or "0", 1)
    medium = found.need("medium", "a file, emptydrive, or none")
    kind = (found.last("type") or "hdd").lower()
    if kind not in _TYPES:
        raise UsageError(f"invalid type {kind!r}: {', '.join(_TYPES)}")
    path = None
    if medium not in ("none", "emptydrive"):
        if medium.startswith("host:"):
            raise SettingsError(f"{medium}: drives of the host cannot be attached")
        path = Path(medium).absolute()
        if not path.exists():
            raise SettingsError(f"there is no medium {path}; createmedium makes disks")

    def change(editor: Editor) -> None:
        if medium == "none":
            editor.detach(controller, port, device)
        else:
            editor.attach(controller, port, device, _TYPES[kind], path)

    change_stopped(found.words[0], change)
    return 0


COMMANDS = {
    "createmedium": createmedium,
    "createhd": createmedium,
    "storagectl": storagectl,
    "storageattach": storageattach,
}
