"""What the lab's virtual machines boot: a kernel, its modules, busybox, an initramfs.

Debian's own packages, downloaded but never installed, unpacked once into a cache. It
needs ``apt-get``, ``dpkg-deb`` and Python, no root (docs/spec/qemu-lab.md 1).
"""

import fcntl
import functools
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

__all__ = [
    "CLIENT",
    "GUEST",
    "LabError",
    "assets",
    "initramfs",
    "module_order",
    "program",
]

_CACHE = Path(os.environ.get("RUSB_LAB_CACHE", "~/.cache/rusb-lab")).expanduser()

_BASE = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio")
_CONTROLLERS = ("xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci")
_CLASSES = ("usb_storage", "sd_mod", "usbhid", "hid_generic", "evdev")
GUEST = (*_BASE, *_CONTROLLERS, *_CLASSES, "cdc_acm", "vfat", "nls_cp437", "nls_ascii")
"""Modules of a machine that remote devices are plugged into, in load order."""
CLIENT = (*_BASE, "overlay", "virtio_net", *_CONTROLLERS, *_CLASSES)
"""Modules of a machine that owns devices."""
_EXTRA = (
    "bochs",
    "snd_intel8x0",
    "snd_pcm_oss",
    "virtio_gpu",
    "virtio_input",
    "atkbd",
    "button",
    "ata_piix",
    "ahci",
    "sr_mod",
    "isofs",
    "crc32c_generic",
    "ext4",
    "usbmon",
    "vhci_hcd",
    "usbip_host",
    "dummy_hcd",
    "libcomposite",
    "usb_f_ss_lb",
    "uas",
    "snd_usb_audio",
    "uvcvideo",
    "ftdi_sio",
    "cp210x",
    "ch341",
    "pl2303",
)


class LabError(RuntimeError):
    """The lab could not do it; the text holds what the machine's consoles say."""


def assets() -> Path:
    """Return the cache folder: ``vmlinux``, ``vmlinuz``, ``busybox``, ``modules/*.ko``.

    The first call takes some seconds and keeps 77 MB. Safe with several processes.

    Raises:
        LabError: a package could not be fetched or unpacked.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    wanted = sorted({*GUEST, *CLIENT, *_EXTRA})
    with open(_CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_filled(wanted):
            wanted = sorted({*wanted, *_wanted_before()})  # of another checkout
            with tempfile.TemporaryDirectory(dir=_CACHE) as work:
                _fill(Path(work), wanted)
    return _CACHE


def _wanted_before() -> list[str]:
    index = _CACHE / "index.json"
    return list(json.loads(index.read_text())["wanted"]) if index.exists() else []


def _is_filled(wanted: list[str]) -> bool:
    return (_CACHE / "vmlinuz").exists() and set(wanted) <= set(_wanted_before())


def _fill(work: Path, wanted: list[str]) -> None:
    depends = _run(work, "apt-cache", "depends", "linux-image-amd64")
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        raise LabError(
            "apt knows no linux-image-amd64; is this Debian? apt-get update?"
        )
    _run(work, "apt-get", "download", kernel[1], "busybox-static")
    for package in work.glob("*.deb"):
        _run(work, "dpkg-deb", "-x", package.name, "x")
    root = work / "x"
    depends_of, files = _closure(next(root.glob("lib/modules/*")), wanted)
    (_CACHE / "modules").mkdir(exist_ok=True)
    for name, path in files.items():
        shutil.copy(path, _CACHE / "modules" / f"{name}.ko")
    shutil.copy(root / "bin/busybox", _CACHE / "busybox")
    image = next(root.glob("boot/vmlinuz-*")).read_bytes()
    (_CACHE / "vmlinuz").write_bytes(image)
    (_CACHE / "vmlinux").write_bytes(_extract_vmlinux(image))
    index = {"wanted": wanted, "depends": depends_of}
    (_CACHE / "index.json").write_text(json.dumps(index))


def _run(folder: Path, *command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
        )
    except OSError as error:
        raise LabError(f"{command[0]}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after 300 s") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: {error.stderr}") from error
    return done.stdout


def _extract_vmlinux(vmlinuz: bytes) -> bytes:
    """Return the ELF in a Debian kernel image, which carries it as an xz payload.

    It boots 3 s faster than the image, which would unpack itself under emulation.
    """
    for match in re.finditer(re.escape(b"\xfd7zXZ\x00"), vmlinuz):
        try:
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elf = unpacker.decompress(vmlinuz[match.start() :])
        except lzma.LZMAError:
            continue
        if elf.startswith(b"\x7fELF"):
            return elf
    raise LabError("no xz-compressed ELF in this vmlinuz")


def _closure(
    tree: Path, wanted: Iterable[str]
) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Find modules and all they need, by the ``depends=`` strings they carry.

    Returns:
        Direct dependencies by module, and file by module.
    """
    files = {p.stem.replace("-", "_"): p for p in tree.rglob("*.ko")}
    lines = (tree / "modules.builtin").read_text().split()
    builtin = {Path(line).stem.replace("-", "_") for line in lines}
    depends: dict[str, list[str]] = {}

    def add(name: str) -> None:
        if name in builtin or name in depends:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        names = found[1].decode().replace("-", "_").split(",") if found else []
        depends[name] = [n for n in names if n]
        for other in depends[name]:
            add(other)

    for name in wanted:
        add(name)
    return depends, {name: files[name] for name in depends}


@functools.cache
def _depends() -> dict[str, list[str]]:
    index = json.loads((assets() / "index.json").read_text())
    found: dict[str, list[str]] = index["depends"]
    return found


def module_order(names: Iterable[str]) -> list[str]:
    """Return *names* and what they need, each after its dependencies."""
    depends, order = _depends(), list[str]()

    def add(name: str) -> None:
        if name in depends and name not in order:
            for other in depends[name]:
                add(other)
            order.append(name)

    for name in names:
        add(name)
    return order


# ----------------------------------------------------------- initramfs ----

_DIRECTORY, _PROGRAM = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
_LINK = stat.S_IFLNK | 0o777
_FOLDERS = (
    "bin",
    "sbin",
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "m",
    "mnt",
    "root",
    "etc",
)


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (name, mode, data); device nodes come from devtmpfs."""
    out = bytearray()
    trailer = ("TRAILER!!!", 0, b"")
    for number, (name, mode, data) in enumerate((*entries, trailer), 1):
        text = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields)
        out += text
        out += bytes(-len(out) % 4)
        out += data
        out += bytes(-len(out) % 4)
    return bytes(out)


def program(name: str) -> dict[str, bytes]:
    """Return a program of this machine as ``bin/NAME``, and the libraries it needs.

    Raises:
        LabError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise LabError(f"{name} is not installed")
    libraries = re.findall(r"/(\S+) \(0x", _run(Path("/"), "ldd", path))
    files = {library: Path("/", library).read_bytes() for library in libraries}
    return {f"bin/{name}": Path(path).read_bytes(), **files}


def initramfs(
    path: Path, modules: Iterable[str], init: str, files: Mapping[str, bytes]
) -> None:
    """Write an initramfs: busybox, *modules*, ``/init`` and more *files* by name."""
    cache, order = assets(), module_order(modules)
    parents = {str(place) for name in files for place in PurePosixPath(name).parents}
    folders = sorted({*_FOLDERS, *parents} - {"."})  # each before what is in it
    entries = [(name, _DIRECTORY, b"") for name in folders]
    entries += [
        ("bin/busybox", _PROGRAM, (cache / "busybox").read_bytes()),
        ("bin/sh", _LINK, b"busybox"),
        ("init", _PROGRAM, init.encode()),
        ("m/order", _PROGRAM, "".join(f"{name}\n" for name in order).encode()),
    ]
    for name in order:
        module = (cache / "modules" / f"{name}.ko").read_bytes()
        entries.append((f"m/{name}.ko", _PROGRAM, module))
    entries += [(name, _PROGRAM, data) for name, data in files.items()]
    path.write_bytes(_cpio(entries))
