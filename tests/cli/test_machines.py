"""``createvm``, ``registervm``, ``unregistervm`` and ``list``."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.cli.vbox import _lists, _refused, machines
from rusb.errors import DeviceBusy, NoPermission
from rusb.server.state import DeviceState
from rusb.server.vbox.registry import Registry
from rusb.usb.backend import LocalDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from tests.support.vbox import RUNNING, Vbox

VDI = b"<<< any program >>>\n".ljust(64) + bytes.fromhex("7f10dabe01000100")
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_what_createvm_says(empty: Vbox) -> None:
    path = empty.folder / "data/rusb/VirtualBox VMs/A b/A b.vbox"
    said = empty("createvm --name 'A b' --ostype Debian_64 --register")
    assert re.fullmatch(
        r"Virtual machine 'A b' is created and registered\.\n"
        rf"UUID: {UUID}\nSettings file: '{re.escape(str(path))}'\n",
        said,
    )
    assert 'OSType="Debian_64"' in path.read_text()
    assert re.fullmatch(rf'"A b" \{{{UUID}\}}\n', empty("list vms"))
    assert "is created.\n" in empty("createvm --name B --basefolder .")
    assert "is created.\n" in empty("createvm --name C --machine-folder=sub")
    assert "use --basefolder" in empty.err
    assert Path("B/B.vbox").exists()
    assert Path("sub/C/C.vbox").exists()
    assert empty("list vms").count("\n") == 1


def test_what_is_not_created_leaves_nothing(vbox: Vbox) -> None:
    vbox("createvm", 2)
    vbox.fails("createvm --register", "missing --name")
    vbox.fails("createvm --name ../x", "cannot be the name of a machine: it has a", 1)
    vbox.fails("createvm --name Lab", "already exists", 1)
    vbox.fails("createvm --name Lab --register --basefolder x", "registered already", 1)
    assert not Path("x").exists()
    vbox.fails("createvm Lab", "unexpected 'Lab'")
    for option in machines.CREATE:
        if option.refused:
            sentence = f"--{option.name}: {option.refused}"
            vbox.fails(f"createvm --name X --{option.name} 17", sentence, 1)


def test_register_and_unregister(vbox: Vbox) -> None:
    path = vbox.folder / "data/rusb/VirtualBox VMs/Lab/Lab.vbox"
    assert vbox("unregistervm Lab") == ""
    assert path.exists()
    assert vbox("list vms") == ""
    assert vbox(f"registervm '{path}'") == ""
    vbox.fails(f"registervm '{path}'", "registered already", 1)
    vbox.fails("registervm nowhere.vbox", "cannot read", 1)
    vbox("unregistervm Lab --delete")
    assert not path.parent.exists()
    vbox.fails("unregistervm Lab", "could not find", 1)
    vbox("unregistervm", 2)


def test_disks_elsewhere_are_never_deleted(vbox: Vbox) -> None:
    folder = vbox.folder / "data/rusb/VirtualBox VMs/Lab"
    own, stranger, other = folder / "a.vdi", folder / "b.vdi", vbox.folder / "c.vdi"
    for path in (own, stranger, other):
        path.write_bytes(VDI)
    vbox("storagectl Lab --name SATA --add sata")
    text = folder / "letter.vdi"
    text.write_text("Dear Anna")
    for port, path in enumerate((own, other, text)):
        place = f"--storagectl SATA --port {port} --medium '{path}'"
        vbox(f"storageattach Lab {place}")
    vbox.fails("unregistervm Lab --delete-all", "are never deleted: --delete", 1)
    said = vbox("unregistervm Lab --delete")
    assert f"Deleted: {own}\n" in said
    assert (
        "Kept, because it is in another directory or another machine uses it:"
        f" {other}\n" in said
    )
    assert f"Kept, because it is not a disk image: {text}\n" in said
    assert {*folder.iterdir()} == {stranger, text}  # not one of the machine's
    assert other.exists()


def test_a_running_machine_stays(vbox: Vbox) -> None:
    with vbox.running():
        vbox.fails("unregistervm Lab", "is running; power it off first", 1)
        assert vbox("list runningvms") == vbox("list vms")
    assert vbox("list runningvms") == ""


def test_a_machine_whose_name_looks_like_an_option(vbox: Vbox) -> None:
    vbox.put('name="Lab"', 'name="-dash"')
    assert 'name="-dash"' in vbox("showvminfo --machinereadable -- -dash")
    vbox.fails("showvminfo -dash", "unknown option")
    vbox("unregistervm -- -dash")
    assert vbox("list vms") == ""


def test_only_a_machine_that_is_named_is_warned_of(vbox: Vbox) -> None:
    vbox("createvm --name New --register")
    vbox.put("1.18-linux", "1.42-linux", "New")
    path = Registry().find("New").path
    for line in ("list vms", "showvminfo Lab", "modifyvm Lab --memory 64"):
        vbox(line)
        assert vbox.err == ""
    for line in (
        *("showvminfo New", "modifyvm New --memory 64", "getextradata New"),
        *("setextradata New a 1", "usbfilter add 0 --target New --name A"),
        *("unregistervm New", f"registervm '{path}'"),
    ):
        vbox(line)
        assert ("settings version 1.42 is newer" in vbox.err) == (
            line[0] != "u" or "add" in line
        ), line


# -------------------------------------------------------------------- list ----


def test_machines_in_every_form(vbox: Vbox) -> None:
    vbox("createvm --name 'B \"q\"' --register")
    vbox("createvm --name aa --register")
    Path(vbox.folder, "data/rusb/VirtualBox VMs/Lab/Lab.vbox").unlink()
    lines = vbox("list vms").splitlines()
    assert [line.partition(" {")[0] for line in lines] == [
        '"<inaccessible>"',
        '"B "q""',
        '"aa"',
    ]
    for option in ("--sorted", "-s"):
        found = vbox(f"list {option} vms").splitlines()
        assert found == [lines[0], lines[2], lines[1]]
    rows = json.loads(vbox("list vms --json"))
    assert [sorted(row) for row in rows] == [["file", "name", "problem", "uuid"]] * 3
    assert "cannot read" in rows[0]["problem"]
    assert rows[1]["name"] == 'B "q"'
    assert rows[1]["problem"] == ""
    for option in ("--long", "-l"):
        text = vbox(f"list vms {option}")
        assert re.findall(r"^Name: +(.+)", text, re.M) == ['B "q"', "aa"]
        assert text.startswith('"<inaccessible>" {')


def test_a_name_is_fit_for_a_terminal(vbox: Vbox) -> None:  # T42
    vbox.put('name="Lab"', 'name="L&#x9b;31m&#10;ab"')
    assert vbox("list vms").startswith('"L31mab" {')
    assert json.loads(vbox("list vms --json"))[0]["name"] == "L\x9b31m\nab"


def test_host_devices(vbox: Vbox, monkeypatch: pytest.MonkeyPatch) -> None:  # 3.8
    mouse = DeviceInfo(
        id=0,
        vendor_id=0x046D,
        product_id=0xC016,
        bcd_device=0x0340,
        bcd_usb=0x0200,
        speed=Speed.FULL,
        bus=1,
        address=7,
        port=3,
        port_path=(3,),
        manufacturer="Logi\x1b[31mtech",
        product="Optical USB Mouse",
    )
    problem = "in use: /dev/sda1 is mounted at /mnt/no permission"
    found = [LocalDevice("k", mouse), LocalDevice("l", mouse, DeviceBusy(problem))]
    monkeypatch.setattr(_lists, "host_devices", lambda: found)
    text = vbox("list usbhost")
    assert re.sub(UUID, "U", text.partition("State:      Available")[0]) == (
        "Host USB Devices:\n\n"
        "UUID:               U\n"
        "VendorId:           0x046d (046D)\n"
        "ProductId:          0xc016 (C016)\n"
        "Revision:           3.64 (0364)\n"  # decimal bytes, D8
        "Port:               3\n"
        "USB version/speed:  2/Full\n"
        "Manufacturer:       Logi[31mtech\n"
        "Product:            Optical USB Mouse\n"
        "Address:            001/007\n"
        "Port path:          1/3\n"
        "Current "
    )
    assert text.endswith("Current State:      Busy\n\n")
    rows = json.loads(vbox("list usbhost --json"))
    assert [row["Problem"] for row in rows] == ["", problem]
    assert rows[0]["Revision"] == "3.64 (0364)"
    found[1] = LocalDevice("l", mouse, NoPermission("no permission for it"))
    assert vbox("list usbhost").endswith("Current State:      Unavailable\n\n")
    device = DeviceState(rows[1]["UUID"], "", 1, 2, 3, attached=True)
    live = replace(RUNNING, devices=(device,))
    monkeypatch.setattr(_lists, "live_state", lambda uuid: live)
    states = [row["Current State"] for row in json.loads(vbox("list usbhost --json"))]
    assert states == ["Available", "Captured"]
    found.clear()
    assert vbox("list usbhost") == "Host USB Devices:\n\n<none>\n\n"
    assert json.loads(vbox("list usbhost --json")) == []


def test_types_of_systems(vbox: Vbox) -> None:
    text = vbox("list ostypes")
    assert "ID:          Debian_64\nDescription: Debian (64-bit)\n" in text
    assert "Family ID:   Linux\nFamily Desc: Linux\n64 bit:      true\n\n" in text
    assert json.loads(vbox("list ostypes --json"))["DOS"] == "DOS"


def test_lists_that_are_not_there(vbox: Vbox) -> None:
    vbox.fails("list toasters", "choose one of vms, runningvms", 2)
    vbox.fails("list vms usbhost", "unexpected 'usbhost'", 2)
    vbox.fails("list vms --colour", "unknown option", 2)
    for word in _refused.LISTS:
        vbox.fails(f"list {word}", f"list {word}: no such list; choose one of vms", 1)


# ----------------------------------------------------- --machinereadable ----


def test_quotes_and_backslashes_are_escaped(vbox: Vbox) -> None:  # 3.7
    vbox("usbfilter add 0 --target Lab --name 'a \"b\" \\c' --product '*\\'")
    info = vbox.info()
    assert r'USBFilterName1="a \"b\" \\c"' in info
    assert r'USBFilterProduct1="*\\"' in info
    assert 'USBFilterVendorId1=""' in info
    assert not [line for line in info if line.startswith(("USBFilterPort", "usbport"))]


def test_every_filter_is_numbered_from_one(vbox: Vbox) -> None:
    vbox("usbfilter add 0 --target Lab --name A --active no")
    vbox("usbfilter add 1 --target Lab --name B --remote yes")
    info = [line for line in vbox.info() if line.startswith("USBFilter")]
    assert info[:2] == ['USBFilterActive1="off"', 'USBFilterName1="A"']
    assert info[9:11] == ['USBFilterActive2="on"', 'USBFilterName2="B"']
    assert 'USBFilterRemote2="yes"' in info
    shown = json.loads(vbox("showvminfo Lab --json"))
    assert [row["name"] for row in shown["filters"]] == ["A", "B"]


def test_keys_that_scripts_read(vbox: Vbox) -> None:
    Path("a.vdi").touch()
    vbox("storagectl Lab --name IDE --add ide")
    vbox("storageattach Lab --storagectl IDE --medium a.vdi")
    vbox("storageattach Lab --storagectl IDE --port 1 --medium emptydrive")
    entry = Registry().find("Lab")
    info = vbox.info()
    number = re.findall(r'<Image uuid="{(.+)}"', vbox.file())[0]
    for line in (
        'groups="/"',
        f'LogFldr="{entry.path.parent}/Logs"',
        f'hardwareuuid="{entry.uuid}"',
        'storagecontrollerportcount0="2"',
        f'"IDE-ImageUUID-0-0"="{number}"',
        'cableconnected1="on"',
    ):
        assert line in info
    assert [x for x in info if re.fullmatch(r'macaddress1="080027[0-9A-F]{6}"', x)]
    keys = [line.partition("=")[0] for line in info]
    for key in ("macaddress2", "cableconnected2", "description"):
        assert key not in keys
    assert '"IDE-ImageUUID-1-0"' not in keys
    vbox('modifyvm Lab --groups /a,/b --description \'say "x"\nname="evil"\'')
    vbox.put("<Hardware>", '<Hardware uuid="{0000000A-0000-0000-0000-000000000001}">')
    vbox.put("<Machine ", '<Machine lastStateChange="2024-05-06T07:08:09Z" ')
    info = vbox.info()
    for line in (
        'groups="/a,/b"',
        r'description="say \"x\"\nname=\"evil\""',
        'hardwareuuid="0000000a-0000-0000-0000-000000000001"',
        'VMStateChangeTime="2024-05-06T07:08:09.000000000"',
    ):
        assert line in info
    shown = json.loads(vbox("showvminfo Lab --json"))
    assert shown["description"] == 'say "x"\nname="evil"'
    assert [a["mode"] for a in shown["adapters"]] == ["nat"]
    drives = shown["storage"][0]["drives"]
    assert [d["medium"] for d in drives] == [str(Path("a.vdi").absolute()), None]


def test_a_controller_has_no_more_ports_than_there_are(vbox: Vbox) -> None:
    vbox("storagectl Lab --name S --add sata --portcount 2")
    vbox.put('PortCount="2"', 'PortCount="1000000"')
    info = vbox.info()
    assert 'storagecontrollerportcount0="256"' in info
    assert '"S-255-0"="none"' in info


def test_a_machine_that_cannot_be_shown_hides_no_other(vbox: Vbox) -> None:
    vbox("createvm --name Other --register")
    vbox.put('RAMSize="128"', 'RAMSize="4294967295"')
    assert re.search(r"^Name: +Other$", vbox("list vms --long"), re.M)
    place = Registry().find("Lab").path
    assert f"{place}: RAMSize is 4294967295, not 1 to" in vbox.err
