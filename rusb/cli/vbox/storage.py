"""Disks and drives: ``createmedium``, ``storagectl``, ``storageattach``."""

import os
from collections.abc import Sequence
from pathlib import Path

from rusb.cli._vbox_options import Given, Option, UsageError, one_of, unsigned
from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.server.vbox.drives import RAW, image_uuid
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.model import BUSES, disk_format
from rusb.server.vbox.qemu_img import run_qemu_img

from ._common import change_stopped, given
from ._refused import refused

__all__ = [
    "ATTACH",
    "COMMANDS",
    "CONTROL",
    "CREATE",
    "EXTENSIONS",
    "FIXED",
    "disk_path",
    "is_fixed_disk",
]

MAX_SIZE = 64 << 20
"""MiB of a disk: 64 TiB."""

EXTENSIONS = {"vdi": ".vdi", "vmdk": ".vmdk", "vhd": ".vhd", "raw": ".img"}
FIXED = {"vdi": "static=on", "vpc": "subformat=fixed", "raw": "preallocation=falloc"}
"""What makes qemu-img use the whole of the disk's size at once."""

_TYPES = {"hdd": "hdd", "dvddrive": "dvd", "fdd": "floppy"}

_CHIPS = {
    "lsilogic": "LsiLogic",
    "lsilogicsas": "LsiLogicSas",
    "buslogic": "BusLogic",
    "intelahci": "AHCI",
    "piix3": "PIIX3",
    "piix4": "PIIX4",
    "ich6": "ICH6",
    "i82078": "I82078",
    "usb": "USB",
    "virtio": "VirtioSCSI",
}
"""Words of ``--controller``, and what files have."""

CREATE = (
    Option("filename"),
    Option("size"),
    Option("sizebyte"),
    Option("format"),
    Option("variant"),
    Option("static", values=0),
    *refused("use qemu-img create -b for a disk on top of another one", "diffparent"),
    *refused("all disks are of type normal", "type", "normal"),
    Option("comment", idle="rusb keeps no list of media"),
    Option("remember", values=0, idle="rusb keeps no list of media"),
    *refused("rusb keeps no properties of media", "property property-file"),
)
CONTROL = (
    Option("name"),
    Option("add"),
    Option("controller"),
    Option("port-count"),
    Option("sata-port-count", instead="port-count"),
    Option("rename"),
    Option("remove", values=0),
    Option("host-io-cache", idle="QEMU always uses the host's cache"),
    *refused("every controller can be booted from", "bootable", "on"),
    *refused(
        "SATA ports cannot emulate IDE",
        "sata-ide-emulation1 sata-ide-emulation2 sata-ide-emulation3"
        " sata-ide-emulation4 sata-ide-emulation",
    ),
)
ATTACH = (
    Option("storagectl"),
    Option("port"),
    Option("device"),
    Option("type"),
    Option("medium"),
    *refused("all disks are of type normal", "mtype", "normal"),
    Option("comment", idle="rusb keeps no list of media"),
    *refused("the UUID of a disk cannot be set", "set-uuid set-parent-uuid"),
    Option("nonrotational", idle="rusb does not tell the guest"),
    *refused(
        "drives cannot be removed while the machine is running", "hot-pluggable", "off"
    ),
    Option("force-unmount", values=0, idle="a machine that is off uses no drive"),
    *refused(
        "drives cannot be removed while the machine is running", "temp-eject", "off"
    ),
    *refused("drives of the host cannot be attached", "passthrough", "off"),
    Option("discard", idle="freed blocks stay in the image"),
    *refused("rusb does not limit bandwidth", "bandwidth-group", "none"),
    *refused(
        "iSCSI is not supported",
        "server target tport lun encodedlun username password password-file"
        " initiator intnet",
    ),
)


def createmedium(words: Sequence[str]) -> int:
    """``createmedium [disk] --filename FILE --size MEBIBYTES [OPTION VALUE ...]``."""
    found = given(words, CREATE)
    kind = found.words[0] if found.words else "disk"
    if len(found.words) > 1 or kind not in ("disk", "dvd", "floppy"):
        raise UsageError(f"unexpected {found.words[-1]!r}")
    if kind != "disk":
        raise SettingsError(f"createmedium {kind}: only disks can be created")
    path = _disk_path(found)
    if found.has("sizebyte"):
        size = unsigned("--sizebyte", found.need("sizebyte", ""), MAX_SIZE << 20)
    else:
        text = found.need("size", "its size in MiB")
        size = unsigned("--size", text, MAX_SIZE) << 20
    if not size:
        raise UsageError("the size of a disk cannot be 0")
    is_fixed = is_fixed_disk(found.last("variant", "") or "") or found.has("static")
    _make(path.absolute(), size, is_fixed=is_fixed)
    print(f"Medium created. UUID: {image_uuid(path.absolute())}")
    return 0


def _disk_path(found: Given) -> Path:
    return disk_path(found.need("filename", "the file to create"), found)


def disk_path(text: str, found: Given, default: str = "vdi") -> Path:
    """Return where a new disk is to be; its extension is its format.

    Raises:
        UsageError: there is no such format, or the name is empty.
        SettingsError: ``--format`` says another one than the name.
    """
    path = Path(text)
    if not path.name:
        raise UsageError(f"{text!r} is not the name of a file")
    word = one_of("format", found.last("format", default) or "", EXTENSIONS)
    suffix = path.suffix.lower()
    is_disk = disk_format(path) != "raw" or suffix in RAW
    if not suffix or not (is_disk or found.has("format")):
        return path.with_name(path.name + EXTENSIONS[word])
    wanted = disk_format(Path(f"x{EXTENSIONS[word]}"))
    if found.has("format") and disk_format(path) != wanted:
        raise SettingsError(
            f"{path}: the format of a {word} disk follows from its name; call it"
            f" {path.stem}{EXTENSIONS[word]}"
        )
    return path


def is_fixed_disk(variant: str) -> bool:
    """Does ``--variant`` ask for a disk that has all of its blocks?

    Raises:
        UsageError: there is no such variant.
        SettingsError: rusb cannot make it.
    """
    words = variant.lower().split(",") if variant else []
    for word in words:
        one_of("variant", word, ("standard", "fixed", "split2g", "stream", "esx"))
        if word not in ("standard", "fixed"):
            raise SettingsError(
                f"--variant {word}: only standard and fixed disks are supported"
            )
    return "fixed" in words


def _make(path: Path, size: int, *, is_fixed: bool) -> None:
    """Run qemu-img; a file that is there stays as it is."""
    if path.exists():
        raise SettingsError(f"{path} already exists; it was not changed")
    kind = disk_format(path)
    options = []
    if is_fixed:
        if kind not in FIXED:
            raise SettingsError(
                f"{path}: only vdi, vhd and raw disks can be of fixed size"
            )
        options = ["-o", FIXED[kind]]
    words = "create", "-q", "-f", kind, *options, str(path), str(size)
    try:
        run_qemu_img(*words, failed=f"cannot create {path}")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if is_fixed:
        _allocate(path)


def _allocate(path: Path) -> None:
    """Get the blocks of a fixed disk; qemu-img leaves holes in some formats.

    Raises:
        SettingsError: there is no room; the disk is gone again.
    """
    try:
        with path.open("r+b") as file:
            if size := os.fstat(file.fileno()).st_size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SettingsError(
            f"cannot create {path}: not enough space for a disk of fixed size:"
            f" {reason(error)}; the file was removed"
        ) from error


def storagectl(words: Sequence[str]) -> int:
    """``storagectl VM --name NAME --add BUS|--rename NAME|--remove``: a controller."""
    found = given(words, CONTROL, count=1)
    name = found.need("name", "which controller")
    ports = unsigned("--portcount", found.last("port-count") or "0", 30)
    bus = (found.last("add") or "").lower()
    chip = (found.last("controller") or "").lower()
    if bus == "sas":  # a SCSI controller to QEMU
        bus, chip = "scsi", chip or "lsilogicsas"
    if bus and bus not in BUSES:
        raise SettingsError(
            f"--add {bus}: no such bus; choose one of sas, {', '.join(BUSES)}"
        )
    if chip and chip not in _CHIPS:
        raise SettingsError(
            f"--controller {chip}: no such controller; choose one of"
            f" {', '.join(_CHIPS)}"
        )

    def change(editor: Editor) -> None:
        if bus:
            editor.add_controller(name, bus, _CHIPS.get(chip, ""), ports)
        elif found.has("remove"):
            editor.remove_controller(name)
        elif new := found.last("rename"):
            editor.rename_controller(name, new)
        else:
            raise UsageError("nothing to do; use --add, --rename or --remove")

    if not bus and (chip or ports):
        raise SettingsError("--controller and --portcount need --add")
    change_stopped(found.words[0], change)
    return 0


def storageattach(words: Sequence[str]) -> int:
    """``storageattach VM --storagectl NAME --medium FILE|emptydrive|none ...``."""
    found = given(words, ATTACH, count=1)
    controller = found.need("storagectl", "the name of a storage controller")
    port = unsigned("--port", found.last("port") or "0", 30)
    device = unsigned("--device", found.last("device") or "0", 1)
    medium = found.need("medium", "a file, emptydrive, or none")
    is_disc = medium == "emptydrive" or medium.lower().endswith(".iso")
    default = "dvddrive" if is_disc else "hdd"
    kind = _TYPES[one_of("type", found.last("type") or default, _TYPES)]
    path = None
    if medium not in ("none", "emptydrive"):
        if medium.startswith("host:"):
            raise SettingsError(f"{medium}: drives of the host cannot be attached")
        if medium in ("additions", "iscsi"):
            raise SettingsError(f"--medium {medium}: only files can be attached")
        path = Path(medium).absolute()
        if not path.exists():
            raise SettingsError(
                f"there is no medium {path}; createmedium creates disks"
            )

    def change(editor: Editor) -> None:
        if medium == "none":
            editor.detach(controller, port, device)
        else:
            editor.attach(controller, port, device, kind, path)

    change_stopped(found.words[0], change)
    return 0


COMMANDS = {
    "createmedium": createmedium,
    "createhd": createmedium,
    "storagectl": storagectl,
    "storageattach": storageattach,
}
