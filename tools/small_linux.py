"""Build a small Linux that boots from a CD and installs itself on a disk.

Usage: python tools/small_linux.py FILE.iso

It is Debian's kernel and busybox, fetched by apt, not installed; isolinux starts it. On
the screen and on the first serial port there is a shell; ``install`` partitions the
first disk, copies the system there, and the machine starts from it from then on. It is
there to try a machine out: no network, no packages, root without a password.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.lab.assets import GUEST, assets, initramfs

ISOLINUX = Path("/usr/lib/ISOLINUX")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
PACKAGES = "isolinux syslinux-common xorriso"

MODULES = (
    *GUEST,
    "ata_piix",
    "ahci",
    "sr_mod",
    "isofs",
    "crc32c_generic",
    "ext4",
    "atkbd",
    "button",
)

MENU = """default linux
prompt 0
label linux
  kernel /vmlinuz
  append initrd=/initrd console=ttyS0 console=tty0 panic=-1 no_timer_check
"""

INIT = """#!/bin/busybox sh
# The first program, from the CD and from the disk: both start here.
export PATH=/sbin:/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read m; do insmod /m/$m.ko 2>/dev/null; done </m/order
echo 0 >/sys/module/usb_storage/parameters/delay_use
mkdir -p /disk
[ -b /dev/sda2 ] && mount -t ext4 /dev/sda2 /disk
if [ -f /disk/etc/installed ]; then
  umount /proc; umount /sys; mount --move /dev /disk/dev
  exec switch_root /disk /etc/start "the disk"
fi
umount /disk 2>/dev/null
exec /etc/start "the CD"
"""

START = """#!/bin/sh
export PATH=/sbin:/bin HOME=/root PS1='small-linux# '
[ -d /proc/1 ] || { mount -t proc proc /proc; mount -t sysfs sys /sys; }
exec 4<>/dev/tty1 5<>/dev/ttyS0  # keeps what is typed before the shells are there
for place in /dev/tty1 /dev/ttyS0; do
  {
    echo; echo "Small Linux, started from $1."
    [ -f /etc/installed ] || echo "'install' puts it on the first disk."
    echo "SYSTEM IS UP"
  } >$place
done
cd /root
while true; do setsid -c sh -c 'sh -i <>/dev/ttyS0 >&0 2>&1'; sleep 1; done &
while true; do setsid -c sh -c 'sh -i <>/dev/tty1 >&0 2>&1'; done
"""

INSTALL = """#!/bin/sh
# Put the system on the first disk: a copy of the CD, and a partition beside it.
say() { echo "$*"; echo "$*" >/dev/ttyS0; }
[ -b /dev/sda ] || { say "There is no disk."; exit 1; }
[ -b /dev/sr0 ] || { say "There is no CD."; exit 1; }
say "Copying the CD to the disk..."
dd if=/dev/sr0 of=/dev/sda bs=1M 2>/dev/null || exit 1
sync
say "Partitioning the disk..."
# at a whole MiB behind the copy
first=$(($(cat /sys/block/sr0/size) / 2048 * 2048 + 4096))
printf "n\\np\\n2\\n$first\\n\\nw\\n" | fdisk -u /dev/sda >/tmp/fdisk || cat /tmp/fdisk
for try in 1 2 3 4 5; do [ -b /dev/sda2 ] && break; sleep 1; done
mke2fs -L small /dev/sda2 >/dev/null || exit 1
mkdir -p /disk
mount -t ext4 /dev/sda2 /disk || exit 1
say "Copying the system..."
for folder in bin sbin etc root m; do cp -a /$folder /disk/; done
for folder in dev proc sys tmp run mnt disk; do mkdir -p /disk/$folder; done
date >/disk/etc/installed
umount /disk
sync
say "Installed. Switch the machine off, take the CD out, and start it again."
"""


def build(path: Path) -> None:
    """Write the image of the CD.

    Raises:
        LabError: apt cannot fetch the kernel.
        OSError, CalledProcessError: isolinux or xorriso is missing or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        shutil.copy(ISOLINUX / "isolinux.bin", tree)
        shutil.copy(LDLINUX, tree)
        shutil.copy(assets() / "vmlinuz", tree / "vmlinuz")
        files = {"etc/start": START.encode(), "sbin/install": INSTALL.encode()}
        initramfs(tree / "initrd", MODULES, INIT, files)
        (tree / "isolinux.cfg").write_text(MENU)
        command = ["xorriso", "-as", "mkisofs", "-quiet", "-o", str(path)]
        command += ["-isohybrid-mbr", str(ISOLINUX / "isohdpfx.bin")]
        command += ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"]
        command += ["-boot-load-size", "4", "-boot-info-table", str(tree)]
        subprocess.run(command, check=True, timeout=120, capture_output=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="where to write the image")
    path = parser.parse_args().file
    missing = [str(p) for p in (ISOLINUX / "isohdpfx.bin", LDLINUX) if not p.exists()]
    if missing or not shutil.which("xorriso"):
        sys.exit(f"missing: apt-get install --no-install-recommends {PACKAGES}")
    build(path)
    print(f"{path}: {path.stat().st_size >> 20} MB")


if __name__ == "__main__":
    main()
