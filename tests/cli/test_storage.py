"""``createmedium``, ``storagectl``, ``storageattach``."""

import errno
import os
from pathlib import Path

import pytest

from rusb.cli._vbox_options import Option
from rusb.cli.vbox import storage
from rusb.server.vbox.drives import image_uuid
from tests.support.vbox import Vbox, fake_qemu_img


@pytest.fixture(autouse=True)
def qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program in the place of qemu-img was told."""
    return fake_qemu_img(tmp_path / "bin", monkeypatch)


@pytest.fixture
def disks(vbox: Vbox) -> Vbox:
    """A machine with an IDE controller; some files."""
    vbox("storagectl Lab --name IDE --add ide")
    for name in ("a.vdi", "a.VMDK", "b.vdi", "cd.iso", "fd.img"):
        Path(name).touch()
    return vbox


# ------------------------------------------------------------ createmedium ----


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("createhd --filename a --size 10", "-f vdi {}/a.vdi 10485760"),
        ("createmedium --filename a.vdi --size 1", "-f vdi {}/a.vdi 1048576"),
        ("createmedium disk --filename a.b --sizebyte 512", "-f vdi {}/a.b.vdi 512"),
        ("createmedium --filename a --size 1 --format VMDK", "-f vmdk {}/a.vmdk "),
        ("createmedium --filename a.vhd --size 1 --format vhd", "-f vpc {}/a.vhd "),
        ("createmedium --filename a.raw --size 1", "-f raw {}/a.raw "),
        ("createmedium --filename a.b --size 1 --format raw", "-f raw {}/a.b "),
        ("createmedium --filename a.qcow2 --size 1", "-f qcow2 {}/a.qcow2 "),
        ("createhd --filename a --size 1 --static", "-f vdi -o static=on {}/a.vdi "),
        ("createhd --filename a --size 1 --variant Standard", "-f vdi {}/a.vdi "),
        ("createhd --filename a.vhd --size 1 --variant Fixed", "-o subformat=fixed {}"),
        ("createhd --filename a.img --size 1 --static", "-o preallocation=falloc {}"),
        ("createhd --filename a --size 1 --type normal", "-f vdi {}/a.vdi "),
    ],
)
def test_disks_are_made_by_qemu(
    empty: Vbox, qemu_img: Path, words: str, arguments: str
) -> None:
    empty(words)
    said = qemu_img.read_text()
    assert said.startswith("create -q ")
    assert arguments.format(empty.folder) in said
    number = image_uuid(Path(said.split()[-2]))
    assert empty.out == f"Medium created. UUID: {number}\n"


@pytest.mark.parametrize(
    ("words", "sentence", "status"),
    [
        ("--size 1", "missing --filename", 2),
        ("--filename a", "missing --size", 2),
        ("--filename a --size 0", "cannot be 0", 2),
        ("--filename a --size 1.5", "it must be a number", 2),
        ("--filename a --size 67108865", "at most", 2),
        ("--filename a --size 1 --format qed", "vdi, vmdk, vhd, raw", 2),
        ("--filename a.vdi --size 1 --format vmdk", "call it a.vmdk", 1),
        ("--filename a --size 1 --variant Split2G", "standard and fixed", 1),
        (
            "--filename a --size 1 --variant Thin",
            "for --variant; choose one of standard",
            2,
        ),
        ("--filename a.vmdk --size 1 --variant Fixed", "can be of fixed size", 1),
        ("--filename there.vdi --size 1", "already exists", 1),
        ("dvd --filename a --size 1", "only disks can be created", 1),
        ("disk disk --filename a --size 1", "unexpected 'disk'", 2),
        ("--filename / --size 1", "'/' is not the name of a file", 2),
        ("--filename '' --size 1", "'' is not the name of a file", 2),
        ("tape --filename a --size 1", "unexpected 'tape'", 2),
    ],
)
def test_disks_that_are_not_made(
    empty: Vbox, qemu_img: Path, words: str, sentence: str, status: int
) -> None:
    Path("there.vdi").write_text("precious")
    empty.fails(f"createmedium {words}", sentence, status)
    assert not qemu_img.exists()
    assert Path("there.vdi").read_text() == "precious"


def test_what_qemu_img_says_is_said(empty: Vbox, qemu_img: Path) -> None:
    program = qemu_img.with_name("qemu-img")
    said = "no \x1b[31mspace \\377"  # which is not UTF-8
    program.write_text(f"#!/bin/sh\n>a.vdi\nprintf '{said}' >&2\nexit 1\n")
    empty.fails("createhd --filename a --size 1", "a.vdi: no [31mspace \ufffd", 1)
    assert not Path("a.vdi").exists()


def test_without_qemu_img_the_package_is_named(
    empty: Vbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    empty.fails("createhd --filename a --size 1", "apt-get install qemu-utils", 1)


def test_a_fixed_disk_has_all_its_blocks(
    empty: Vbox, qemu_img: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = qemu_img.with_name("qemu-img")
    program.write_text(program.read_text() + 'truncate -s 1M "$file"\n')
    empty("createmedium --filename a --size 1 --variant Fixed")
    assert Path("a.vdi").stat().st_blocks * 512 >= 1 << 20
    empty("createmedium --filename b --size 1")
    assert Path("b.vdi").stat().st_blocks * 512 < 1 << 20

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    sentence = "not enough space for a disk of fixed size: No space left on device"
    empty.fails("createmedium --filename c --size 1 --static", sentence, 1)
    assert not Path("c.vdi").exists()


# -------------------------------------------------------------- storagectl ----


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("--add ide", "PIIX4"),
        ("--add IDE --controller ICH6", "ICH6"),
        ("--add sata --controller IntelAHCI", "IntelAhci"),
        ("--add scsi --controller BusLogic", "BusLogic"),
        ("--add sas", "LsiLogicSas"),
        ("--add floppy --controller I82078", "I82078"),
        ("--add usb", "USB"),
        ("--add virtio --controller VirtIO", "VirtIO"),
        ("--add sata --portcount 5 --hostiocache on --bootable on", "IntelAhci"),
    ],
)
def test_controllers(vbox: Vbox, words: str, kind: str) -> None:
    vbox(f"storagectl Lab --name 'My Disks' {words}")
    assert 'storagecontrollername0="My Disks"' in vbox.info()
    assert f'storagecontrollertype0="{kind}"' in vbox.info()
    assert ('PortCount="5"' in vbox.file()) == ("portcount" in words)
    vbox("storagectl Lab --name 'My Disks' --rename Other")
    assert 'storagecontrollername0="Other"' in vbox.info()
    vbox("storagectl Lab --name Other --remove")
    assert "<StorageController " not in vbox.file()


@pytest.mark.parametrize(
    ("words", "sentence", "status"),
    [
        ("--add sata", "missing --name", 2),
        ("--name X", "nothing to do", 2),
        ("--name IDE --add ide", "already a storage controller named 'IDE'", 1),
        ("--name None --remove", "no storage controller named 'None'", 1),
        ("--name None --rename X", "no storage controller named 'None'", 1),
        ("--name X --add pcie", "choose one of sas, ide", 1),
        ("--name X --add sata --controller NVMe", "choose one of lsilogic", 1),
        ("--name X --add sata --controller PIIX4", "is not a controller for sata", 1),
        ("--name X --add sata --portcount 31", "at most 30", 2),
        ("--name IDE --portcount 2", "need --add", 1),
    ],
)
def test_controllers_that_cannot_be(
    disks: Vbox, words: str, sentence: str, status: int
) -> None:
    disks.fails(f"storagectl Lab {words}", sentence, status)


# ----------------------------------------------------------- storageattach ----


def test_media_come_and_go(disks: Vbox) -> None:
    line = "storageattach Lab --storagectl IDE --port 0 --device"
    disks(f"{line} 0 --type hdd --medium a.vdi --mtype normal")
    disks(f"{line} 1 --medium cd.iso")
    assert f'"IDE-0-0"="{disks.folder}/a.vdi"' in disks.info()
    assert f'"IDE-0-1"="{disks.folder}/cd.iso"' in disks.info()
    assert '<AttachedDevice type="DVD"' in disks.file()
    disks(f"{line} 0 --medium b.vdi")
    assert "a.vdi" not in disks.file()
    disks(f"{line} 1 --medium emptydrive")
    assert '"IDE-0-1"="emptydrive"' in disks.info()
    disks(f"{line} 0 --medium none")
    assert "b.vdi" not in disks.file()
    disks("storagectl Lab --name FD --add floppy")
    disks("storageattach Lab --storagectl FD --type fdd --medium fd.img")
    assert '<AttachedDevice type="Floppy"' in disks.file()


@pytest.mark.parametrize(
    ("words", "sentence", "status"),
    [
        ("--medium a.vdi", "missing --storagectl", 2),
        ("--storagectl IDE", "missing --medium", 2),
        ("--storagectl None --medium a.vdi", "named 'None'", 1),
        ("--storagectl IDE --medium nowhere.vdi", "there is no medium", 1),
        ("--storagectl IDE --medium none", "nothing is attached", 1),
        ("--storagectl IDE --medium emptydrive --type hdd", "cannot be empty", 1),
        ("--storagectl IDE --medium a.vdi --type tape", "hdd, dvddrive, fdd", 2),
        ("--storagectl IDE --medium a.vdi --port x", "it must be a number", 2),
        ("--storagectl IDE --medium a.vdi --device 2", "at most 1", 2),
        ("--storagectl IDE --medium a.vdi --type dvddrive", "is a hard disk", 1),
        ("--storagectl IDE --medium a.VMDK --type dvddrive", "is a hard disk", 1),
        ("--storagectl IDE --medium a.vdi --type fdd", "is a hard disk", 1),
        ("--storagectl IDE --medium host:/dev/sr0", "drives of the host", 1),
        ("--storagectl IDE --medium additions", "only files can be attached", 1),
        ("--storagectl IDE --medium iscsi", "only files can be attached", 1),
    ],
)
def test_media_that_cannot_be(
    disks: Vbox, words: str, sentence: str, status: int
) -> None:
    disks.fails(f"storageattach Lab {words}", sentence, status)


def test_a_disk_is_in_one_place_only(disks: Vbox) -> None:
    line = "storageattach Lab --storagectl IDE --port"
    disks("storagectl Lab --name SATA --add sata")
    Path("link.vdi").symlink_to("a.vdi")
    disks(f"{line} 0 --medium a.vdi")
    disks(f"{line} 0 --medium link.vdi")
    disks(f"{line} 0 --medium a.vdi")
    for name in ("a.vdi", "link.vdi"):
        sentence = "is attached already, to port 0, device 0 of 'IDE'"
        disks.fails(f"{line} 1 --medium {name}", sentence, 1)
        disks.fails(f"storageattach Lab --storagectl SATA --medium {name}", sentence, 1)
    disks(f"{line} 0 --medium b.vdi")
    disks(f"{line} 1 --medium a.vdi")
    for port in (0, 1):
        disks(f"{line} {port} --device 1 --medium cd.iso")


@pytest.mark.parametrize(
    "line",
    [
        "storagectl Lab --name X --add sata",
        "storageattach Lab --storagectl IDE --medium a.vdi",
    ],
)
def test_a_running_machine_keeps_its_drives(disks: Vbox, line: str) -> None:
    with disks.running():
        disks.fails(line, "the machine 'Lab' is running", 1)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("createmedium --filename a --size 1", storage.CREATE),
        ("storagectl Lab --name X --add sata", storage.CONTROL),
        ("storageattach Lab --storagectl IDE --medium a.vdi", storage.ATTACH),
    ],
)
def test_refused_options_say_why(
    disks: Vbox, line: str, options: tuple[Option, ...]
) -> None:
    for option in options:
        if option.refused:
            sentence = f"--{option.name}: {option.refused}"
            disks.fails(f"{line} --{option.name} 17", sentence, 1)
