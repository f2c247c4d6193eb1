"""Questions that tools ask VBoxManage, and what it answers, with status 0."""

import json
import re
import shutil
import struct
import uuid
from pathlib import Path

import pytest

from rusb.cli.vbox import lists
from rusb.cli.vbox._installation import host_lines
from rusb.cli.vbox._ostypes import OS_TYPES, identify
from rusb.server.vbox.registry import Registry
from tests.support.vbox import Vbox, fake_qemu_img

DATA = Path(__file__).parents[1] / "server" / "data"
OWN = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")


def vdi(path: Path, mebibytes: int = 64) -> Path:
    """An image with a UUID of its own."""
    head = bytearray(512)
    head[64:72] = bytes.fromhex("7f10dabe01000100")
    struct.pack_into("<Q", head, 368, mebibytes << 20)
    head[392:408] = OWN.bytes_le
    path.write_bytes(head)
    return path


@pytest.fixture
def disks(vbox: Vbox) -> Vbox:
    """A machine with a disk, a CD and an empty drive."""
    vdi(Path("a.vdi"))
    Path("cd.iso").write_bytes(bytes(3 << 20))
    vbox("storagectl Lab --name IDE --add ide")
    vbox("storageattach Lab --storagectl IDE --port 0 --device 0 --medium a.vdi")
    vbox("storageattach Lab --storagectl IDE --port 1 --device 0 --medium cd.iso")
    vbox("storageattach Lab --storagectl IDE --port 1 --device 1 --medium emptydrive")
    return vbox


# -------------------------------------------------------------------- media ----


def test_disks_of_machines(disks: Vbox) -> None:
    place = disks.folder / "a.vdi"
    assert disks("list hdds") == (
        f"UUID:           {OWN}\n"
        "Parent UUID:    base\n"
        "State:          created\n"
        "Type:           normal (base)\n"
        f"Location:       {place}\n"
        "Storage format: VDI\n"
        "Capacity:       64 MBytes\n"
        "Encryption:     disabled\n\n"
    )
    text = disks("list dvds")
    assert "Type:           readonly\n" in text
    assert "Storage format: RAW\nCapacity:       3 MBytes\n" in text
    assert "Parent" not in text
    assert disks("list floppies") == ""
    (row,) = json.loads(disks("list hdds --json"))
    assert row["Location"] == str(place)
    with disks.running():
        assert "State:          locked write" in disks("list hdds")
        assert "State:          locked read" in disks("list dvds")
    place.unlink()
    assert "State:          inaccessible" in disks("list hdds")


def test_a_medium_by_path_or_uuid(disks: Vbox) -> None:
    lab = Registry().find("Lab").uuid
    for line in (f"showmediuminfo disk {OWN}", "showhdinfo a.vdi"):
        text = disks(line)
        assert f"UUID:           {OWN}\n" in text
        assert "Size on disk:   0 MBytes\n" in text
        assert text.endswith(f"In use by VMs:  Lab (UUID: {lab})\n")
    number = re.findall("^UUID: +(.*)", disks("showmediuminfo dvd cd.iso"), re.M)[0]
    assert f"/cd.iso (UUID: {number})" in disks("showvminfo Lab")
    vdi(Path("b.vdi"))
    assert "In use" not in disks("showmediuminfo b.vdi").replace(str(OWN), "")
    disks.fails("showmediuminfo none.vdi", "there is no medium", 1)
    disks.fails(f"showmediuminfo {uuid.UUID(int=7)}", "no registered machine has", 1)
    disks.fails("showmediuminfo disk a.vdi b.vdi", "name one medium", 2)


def test_images_say_how_large_they_are(vbox: Vbox) -> None:
    images = {
        "a.vmdk": b"KDMV" + bytes(8) + struct.pack("<Q", 5 << 11) + bytes(500),
        "b.vmdk": b'# Disk DescriptorFile\nRW 4096 SPARSE "c"\nRW 2048 FLAT "d" 0\n',
        "c.qcow2": b"QFI\xfb".ljust(24, b"\0") + struct.pack(">Q", 7 << 20),
        "d.vhd": bytes(512) + b"conectix".ljust(48, b"\0") + struct.pack(">Q", 9 << 20),
        "e.img": bytes(2 << 20),
        "short.vdi": b"x",
    }
    for name, data in images.items():
        Path(name).write_bytes(data.ljust(512, b"\0") if name[0] == "c" else data)
    Path("d.vhd").write_bytes(images["d.vhd"].ljust(1024, b"\0"))
    found = [
        re.findall("Capacity: +([0-9]+)", vbox(f"showmediuminfo {name}"))[0]
        for name in images
    ]
    assert found == ["5", "3", "7", "9", "2", "0"]


def test_formats_that_only_qemu_knows(vbox: Vbox) -> None:
    vbox("storagectl Lab --name IDE --add ide")
    for device, name in enumerate(("a.hdd", "b.qcow")):
        Path(name).touch()
        line = f"storageattach Lab --storagectl IDE --port 0 --device {device}"
        vbox(f"{line} --medium {name}")
    found = re.findall("Storage format: (.*)", vbox("list hdds"))
    assert found == ["Parallels", "QCOW"]


def test_disks_on_top_of_others(vbox: Vbox) -> None:
    path = vbox.folder / "S.vbox"
    shutil.copy(DATA / "snapshots-1.12.vbox", path)
    vbox(f"registervm {path}")
    text = vbox("list hdds")
    assert re.findall("^Parent UUID: +(.*)", text, re.M) == [
        "base",
        "22222222-0000-4000-8000-000000000011",
        "22222222-0000-4000-8000-000000000012",
    ]
    assert "Type:           normal (differencing)\n" in text
    text = vbox("showmediuminfo 22222222-0000-4000-8000-000000000011")
    assert "Child UUIDs:    22222222-0000-4000-8000-000000000012\n" in text
    line = "closemedium Snapshots/one.vdi"
    vbox.fails(line, "is attached to 'With snapshots'", 1)


def test_what_is_closed(disks: Vbox) -> None:
    disks.fails("closemedium disk a.vdi --delete", "is attached to 'Lab'", 1)
    disks.fails(f"closemedium {OWN}", "is attached to 'Lab'", 1)
    other = Path("b.img")
    other.write_bytes(bytes(1024))
    assert disks(f"closemedium disk {other}") == ""
    assert other.exists()
    assert (
        disks(f"closemedium disk {other} --delete") == f"Deleted: {other.absolute()}\n"
    )
    assert not other.exists()
    letter = Path("letter.vdi")
    letter.write_text("Dear Anna")
    disks.fails("closemedium letter.vdi --delete", "is not a disk image", 1)
    assert letter.exists()
    link = Path("link.vdi")
    link.symlink_to("a.vdi")
    disks.fails("closemedium link.vdi --delete", "is attached to 'Lab'", 1)
    Path("a.vdi").unlink()
    Path("a.vdi").symlink_to("a.vdi")  # in circles
    disks.fails(f"closemedium {OWN}", "is attached to 'Lab'", 1)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="apt-get install qemu-utils")
def test_copies_of_disks(vbox: Vbox) -> None:
    """With the real qemu-img, byte by byte."""
    data = bytes(range(256)) * 8192  # 2 MiB
    Path("a.img").write_bytes(data)
    said = vbox("convertfromraw a.img b.vdi")
    first = re.findall("'VDI'. UUID: (.*)", said)[0]
    said = vbox("clonemedium disk b.vdi c")
    second = re.findall("'VDI'. UUID: (.*)", said)[0]
    assert uuid.UUID(first) != uuid.UUID(second)
    assert f"UUID:           {second}\n" in vbox("showmediuminfo c.vdi")
    vbox("clonehd c.vdi d.vmdk --format VMDK")
    vbox("clonemedium d.vmdk e.img --format RAW --variant Standard")
    assert Path("e.img").read_bytes() == data
    vbox("clonemedium e.img f.vdi --variant Fixed")
    assert "in format 'Parallels'" in vbox("clonemedium e.img g.hdd")
    assert "in format 'VDI'" in vbox("clonemedium g.hdd h")
    assert Path("f.vdi").stat().st_size > len(data)
    for line, sentence in (
        ("clonemedium b.vdi c.vdi", "c.vdi already exists; it was not changed"),
        (
            "clonemedium b.vdi x.vdi --format VMDK",
            "the format of a vmdk disk follows from its",
        ),
        ("clonemedium b.vdi x.vmdk --variant Fixed", "only vdi, vhd and"),
        ("clonemedium none.vdi x.vdi", "there is no medium"),
        ("convertfromraw none.img x.vdi", "there is no image"),
    ):
        vbox.fails(line, sentence, 1)
    Path("letter.vdi").write_text("Dear Anna")
    vbox.fails("clonemedium letter.vdi x.vdi", "the copy was removed", 1)
    assert not list(Path().glob("x.*"))
    vbox.fails("clonemedium a.img", "name a disk, and the file", 2)


def test_a_disk_keeps_the_uuid_that_createmedium_told(
    vbox: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu_img(tmp_path / "bin", monkeypatch)
    vbox("storagectl Lab --name IDE --add ide")
    said = vbox("createmedium --filename d --size 64 --format VMDK")
    number = said.removeprefix("Medium created. UUID: ").strip()
    assert uuid.UUID(number)
    vbox("storageattach Lab --storagectl IDE --medium d.vmdk")
    assert f'"IDE-ImageUUID-0-0"="{number}"' in vbox.info()
    Path("d.vmdk").rename("e.vmdk")
    vbox.put("d.vmdk", "e.vmdk")
    Path("d.vmdk").touch()  # another one at the same path
    vbox("storageattach Lab --storagectl IDE --port 1 --type hdd --medium d.vmdk")
    info = vbox.info()
    assert f'"IDE-ImageUUID-1-0"="{number}"' not in info
    assert f'"IDE-0-0"="{vbox.folder}/e.vmdk"' in info
    assert f'"IDE-1-0"="{vbox.folder}/d.vmdk"' in info


def test_the_uuid_of_a_vmdk_is_its_own(vbox: Vbox) -> None:
    text = f'# Disk DescriptorFile\nddb.uuid.image="{OWN}"\n'
    Path("a.vmdk").write_text(text)
    assert f"UUID:           {OWN}\n" in vbox("showmediuminfo a.vmdk")


# ---------------------------------------------------------- host, installation ----


def test_what_there_is_none_of(vbox: Vbox) -> None:
    for word in lists.EMPTY:
        assert vbox(f"list {word}").strip() == lists.EMPTY[word]
        assert json.loads(vbox(f"list {word} --json")) == []
        assert vbox.err == ""


def test_groups(vbox: Vbox) -> None:
    vbox("modifyvm Lab --groups /b,/a/c")
    assert vbox("list groups") == '"/"\n"/a/c"\n"/b"\n'


def test_system_properties(vbox: Vbox) -> None:
    folder = vbox.folder / "vms"
    vbox(f"setproperty machinefolder {folder}")
    text = vbox("list systemproperties")
    for line in (
        "Maximum guest CPU count:         64",
        "Maximum guest RAM size:          4194304 Megabytes",
        "Maximum IDE Port count:          2",
        "Maximum Devices per IDE Port:    2",
        f"Default machine folder:          {folder}",
        "VRDE auth library:               VBoxAuth",
        "Default Guest Additions ISO:",
    ):
        assert f"{line}\n" in text
    for line in ("--memory 4194305", "--cpus 65"):  # these limits are true
        vbox.fails(f"modifyvm Lab {line}", "at most", 2)


def test_host_information(vbox: Vbox) -> None:
    text = vbox("list hostinfo")
    assert re.search(r"^Processor count: [1-9][0-9]*$", text, re.M)
    assert re.search(r"^Memory size: [1-9][0-9]* MByte$", text, re.M)
    processor = (
        "processor\t: {}\nmodel name\t: Some CPU\ncpu MHz\t\t: 2904.000\n"
        "physical id\t: 0\ncore id\t\t: {}\nflags\t\t: fpu pae lm vmx ept\n\n"
    )
    four = "".join(processor.format(n, n // 2) for n in range(4))
    memory = "MemTotal:       8388608 kB\nMemAvailable:   1048576 kB\n"
    lines = host_lines(four, memory)
    for line in (
        "Processor count: 4",
        "Processor core count: 2",
        "Processor supports HW virtualization: yes",
        "Processor supports nested paging: yes",
        "Processor#3 speed: 2904 MHz",
        "Processor#3 description: Some CPU",
        "Memory size: 8192 MByte",
        "Memory available: 1024 MByte",
    ):
        assert line in lines
    assert "Processor supports PAE: yes" in lines
    assert not [x for x in host_lines("", "") if "supports" in x or "Memory" in x]


def test_types_of_systems_by_word_or_description(vbox: Vbox) -> None:
    assert identify("debian_64") == identify("Debian (64-bit)") == "Debian_64"
    assert identify("Plan9") == "Plan9"
    assert len(set(OS_TYPES.values())) == len(OS_TYPES)
    vbox("createvm --name New --register --ostype 'Windows 10 (64-bit)'")
    assert 'OSType="Windows10_64"' in vbox.file("New")
    assert 'ostype="Windows 10 (64-bit)"' in vbox.info("New")
    vbox("modifyvm New --ostype Plan9")
    assert 'ostype="Plan9"' in vbox.info("New")


# ----------------------------------------------------------------- properties ----


def test_guest_properties_are_kept(vbox: Vbox) -> None:
    """docker-machine sets such, and nothing in a guest reads them."""
    name = "/VirtualBox/GuestAdd/SharedFolders/MountPrefix"
    assert vbox(f"guestproperty get Lab {name}") == "No value set!\n"
    vbox(f"guestproperty set Lab {name} /")
    vbox("guestproperty set Lab /b 'two words' --flags RDONLYGUEST")
    assert vbox(f"guestproperty get Lab {name}") == "Value: /\n"
    text = vbox("guestproperty enumerate Lab")
    number = r"timestamp: [0-9]{19}, flags:"
    assert re.fullmatch(
        rf"Name: {name}, value: /, {number}\n"
        rf"Name: /b, value: two words, {number} RDONLYGUEST\n",
        text,
    )
    text = vbox("guestproperty enumerate Lab --patterns '/x|/b*'")
    assert re.findall("Name: ([^,]*)", text) == ["/b"]
    with vbox.running():
        vbox("guestproperty set Lab /b new")
    assert vbox("guestproperty get Lab /b") == "Value: new\n"
    vbox("guestproperty unset Lab /b")
    vbox(f"guestproperty set Lab {name}")
    assert "GuestProperties" not in vbox.file()
    for line, sentence in (
        ("set Lab a* b", "invalid name 'a*'"),
        (f"set Lab {'n' * 64} b", "more than 63 bytes"),
        (f"set Lab n {'v' * 128}", "more than 127 bytes"),
        ("wait Lab *", "rusb has no Guest Additions"),
    ):
        vbox.fails(f"guestproperty {line}", sentence, 1)
    vbox("guestproperty", 2)
    vbox.fails("guestproperty frobnicate Lab", "choose one of", 2)


def test_snapshots_that_virtualbox_made(vbox: Vbox) -> None:
    assert vbox("snapshot Lab list") == "This machine does not have any snapshots\n"
    path = vbox.folder / "S.vbox"
    shutil.copy(DATA / "snapshots-1.12.vbox", path)
    vbox(f"registervm {path}")
    first, second = (f"22222222-0000-4000-8000-00000000000{n}" for n in (1, 2))
    assert vbox("snapshot 'With snapshots' list") == (
        f"   Name: Snapshot 1 (UUID: {first})\n"
        f"      Name: Snapshot 2 (UUID: {second}) *\n"
    )
    assert vbox("snapshot 'With snapshots' list --machinereadable") == (
        'SnapshotName="Snapshot 1"\n'
        f'SnapshotUUID="{first}"\n'
        'SnapshotName-1="Snapshot 2"\n'
        f'SnapshotUUID-1="{second}"\n'
        'CurrentSnapshotName="Snapshot 2"\n'
        f'CurrentSnapshotUUID="{second}"\n'
        'CurrentSnapshotNode="SnapshotName-1"\n'
    )
    vbox.fails("snapshot Lab --details take", "snapshot VM list", 2)
    for verb in ("take Now", "delete Now", "restore Now", "restorecurrent"):
        vbox.fails(f"snapshot Lab {verb}", "rusb has no snapshots", 1)


def test_metrics(vbox: Vbox) -> None:
    assert vbox("metrics list").startswith("Object          Metric   ")
    assert vbox("metrics query Lab").count("\n") == 1
    vbox.fails("metrics setup", "ps and top show", 1)


# ----------------------------------------------------------------- showvminfo ----


def test_the_log_of_a_machine(vbox: Vbox) -> None:
    assert vbox("showvminfo Lab --log 0") == ""
    assert "there is no log" in vbox.err
    logs = Registry().find("Lab").path.parent / "Logs"
    logs.mkdir()
    (logs / "VBox.log").write_bytes(b"00:00 now \x1b[31m\xff\n")
    (logs / "VBox.log.1").write_text("00:00 before\n")
    assert vbox("showvminfo Lab --log 0") == "00:00 now [31m\ufffd\n"
    assert vbox("showvminfo --log 1 Lab") == "00:00 before\n"
    vbox.fails("showvminfo Lab --log x", "it must be a number", 2)


def test_since_when(vbox: Vbox) -> None:
    entry = Registry().find("Lab")
    key, text = "VMStateChangeTime", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000000000"
    (found,) = (line for line in vbox.info() if line.startswith(key))
    assert re.fullmatch(f'{key}="{text}"', found)
    assert re.search(
        rf"^State: +powered off \(since {text}\)$", vbox("showvminfo Lab"), re.M
    )
    vbox.put("<Machine ", '<Machine lastStateChange="2024-05-06T07:08:09Z" ')
    assert f'{key}="2024-05-06T07:08:09.000000000"' in vbox.info()
    log = entry.path.parent / "Logs" / "VBox.log"
    log.parent.mkdir()
    log.touch()
    assert not [line for line in vbox.info() if line.startswith(f'{key}="2024')]


def test_places_without_a_drive_are_there(disks: Vbox) -> None:
    info = disks.info()
    for line in (
        f'"IDE-0-0"="{disks.folder}/a.vdi"',
        f'"IDE-ImageUUID-0-0"="{OWN}"',
        '"IDE-0-1"="none"',
        f'"IDE-1-0"="{disks.folder}/cd.iso"',
        '"IDE-1-1"="emptydrive"',
        '"IDE-IsEjected-1-1"="off"',
        'storagecontrollermaxportcount0="2"',
        'storagecontrollerinstance0="0"',
        'storagecontrollerbootable0="on"',
    ):
        assert line in info
    text = disks("showvminfo Lab")
    assert f"\nIDE (0, 0): {disks.folder}/a.vdi (UUID: {OWN})\n" in text
    assert "\nIDE (1, 1): Empty\n" in text
    assert "IDE (0, 1)" not in text
    disks("storagectl Lab --name 'a\"b' --add sata --portcount 1")
    assert '"a\\"b-0-0"="none"' in disks.info()


def test_networks_of_a_file_by_virtualbox(vbox: Vbox) -> None:
    vbox("modifyvm Lab --nic2 nat --nic3 nat --nic4 null --nictype2 virtio")
    text = vbox.file()
    path = Registry().find("Lab").path
    for element in (
        '<BridgedInterface name="eth0"/>',
        '<HostOnlyInterface name="vboxnet0"/>',
    ):
        text = text.replace("<NAT/>", element, 1)
    path.write_text(text.replace("<NAT/>", '<NAT network="10.9/16"/>'))
    info = vbox.info()
    for line in (
        *('bridgeadapter1="eth0"', 'nic1="bridged"', 'nictype1="82540EM"'),
        *('hostonlyadapter2="vboxnet0"', 'nic2="hostonly"', 'nictype2="virtio"'),
        *('natnet3="10.9/16"', 'nic3="nat"', 'nic4="null"', 'nic5="none"'),
    ):
        assert line in info
    text = vbox("showvminfo Lab")
    assert "Attachment: BridgedInterface 'eth0', Cable connected: on" in text
    assert re.search(r"^NIC 5: +disabled$", text, re.M)


def test_what_is_kept_is_shown(vbox: Vbox) -> None:
    vbox(
        "modifyvm Lab --vram 32 --graphicscontroller vmsvga --mouse usbtablet"
        " --keyboard usb --pae off --nested-hw-virt on --paravirtprovider kvm"
        " --biosbootmenu disabled --nicspeed1 100000 --nicpromisc1 allow-vms"
        " --monitorcount 2"
    )
    info = vbox.info()
    for line in (
        *("vram=32", 'graphicscontroller="vmsvga"', 'hidpointing="usbtablet"'),
        *('hidkeyboard="usbkbd"', 'pae="off"', 'nested-hw-virt="on"', "monitorcount=2"),
        *('paravirtprovider="kvm"', 'bootmenu="disabled"', 'nicspeed1="100000"'),
    ):
        assert line in info
    text = vbox("showvminfo Lab")
    for line in (
        "VRAM size:                   32MB",
        "Graphics Controller:         VMSVGA",
        "Pointing Device:             USB Tablet",
        "PAE:                         disabled",
    ):
        assert f"\n{line}\n" in text
    assert (
        "Reported speed: 100 Mbps, Boot priority: 0, Promisc Policy: allow-vms" in text
    )


def test_settings_that_are_odd_do_not_keep_lists_from_others(disks: Vbox) -> None:
    disks("createvm --name Odd --register")
    disks.put('RAMSize="128"', 'RAMSize="0"', "Odd")
    assert str(OWN) in disks("list hdds")
    assert disks("list groups") == '"/"\n'
    disks.put('<RemoteDisplay enabled="false"/>', '<Display VRAMSize="much"/>')
    assert "vram=0" in disks.info()


def test_no_text_of_a_file_makes_a_key(vbox: Vbox) -> None:  # T42
    vbox.put('name="Lab"', 'name="a&#10;VMState=&quot;running&quot;"')
    uuid_ = Registry().machines()[0].uuid
    assert [line for line in vbox.info(uuid_) if line.startswith("VMState=")] == [
        'VMState="poweroff"'
    ]
