"""The domain of libvirt that a machine is; tests/lab has a real one start."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from rusb.errors import SettingsError
from rusb.server.machine.domain_xml import card_of, domain_xml, netdev_of
from rusb.server.vbox.engine import Engine, find_engine
from rusb.server.vbox.model import Adapter, Audio, Controller, Drive, Hardware
from rusb.server.vbox.serialport import SerialPort

UUID = "{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a716}"
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")


def parsed(hardware: Hardware, **options: object) -> ElementTree.Element:
    text = domain_xml("a & b", UUID, hardware, [Path("/run/a,b")], **options)  # type: ignore[arg-type]
    return ElementTree.fromstring(text)


def arguments(root: ElementTree.Element) -> list[str]:
    return [a.get("value", "") for a in root.findall(f"{QEMU}commandline/{QEMU}arg")]


def attributes(root: ElementTree.Element, path: str) -> list[dict[str, str]]:
    return [found.attrib for found in root.findall(path)]


def test_what_every_machine_has() -> None:
    root = parsed(Hardware(memory=96, cpus=2))
    assert root.get("type") == "qemu"
    assert root.findtext("name") == "a & b"
    assert root.findtext("uuid") == UUID.strip("{}")
    assert root.findtext("memory") == "96"
    assert root.findtext("vcpu") == "2"
    assert [b["dev"] for b in attributes(root, "os/boot")] == ["fd", "cdrom", "hd"]
    assert root.find("features/acpi") is not None
    assert attributes(root, "clock") == [{"offset": "utc"}]
    assert attributes(root, "devices/controller") == [{"type": "usb", "model": "none"}]
    assert arguments(root) == ["-qmp", "unix:/run/a,,b,server=on,wait=off"]
    assert root.find(f"{QEMU}override") is None


def test_a_domain_that_waits_for_a_state() -> None:
    root = parsed(Hardware(), incoming="unix:/run/x")
    assert arguments(root)[-2:] == ["-incoming", "unix:/run/x"]


def test_settings_that_differ() -> None:
    hardware = Hardware(acpi=False, is_local_time=True, boot=("net", "disk", "net"))
    root = parsed(hardware, accelerator="kvm")
    assert root.get("type") == "kvm"
    assert root.find("features/acpi") is None
    assert attributes(root, "clock") == [{"offset": "localtime"}]
    assert [b["dev"] for b in attributes(root, "os/boot")] == ["network", "hd"]


def test_usb_controllers_and_their_ports() -> None:
    hardware = Hardware(usb=("OHCI", "EHCI", "XHCI", "OHCI"))
    root = parsed(hardware, screens=[Path("/run/s")])
    models = [c["model"] for c in attributes(root, "devices/controller")]
    assert models == ["pci-ohci", "ehci", "qemu-xhci"]
    names = [a["name"] for a in attributes(root, "devices/controller/alias")]
    assert names == ["ua-usb0", "ua-usb1", "ua-usb2"]
    override = f"{QEMU}override/{QEMU}device"
    assert [d["alias"] for d in attributes(root, override)] == ["ua-usb0", "ua-usb2"]
    assert attributes(root, f"{override}/{QEMU}frontend/{QEMU}property") == [
        {"name": "num-ports", "type": "unsigned", "value": "15"},
        {"name": "streams", "type": "bool", "value": "false"},
    ]
    assert attributes(root, "devices/input") == [{"type": "tablet", "bus": "usb"}]


def test_each_disk_is_in_its_place(tmp_path: Path) -> None:
    image = tmp_path / "disk.vdi"
    image.touch()

    def one(chip: str, *drives: Drive) -> Controller:
        return Controller(chip, chip, 4, drives)

    root = parsed(
        Hardware(
            usb=("EHCI",),
            controllers=[
                one("PIIX4", Drive(0, 1, "hdd", image), Drive(1, 0, "dvd")),
                one("AHCI", Drive(2, 0, "hdd", image)),
                one("LsiLogic", Drive(3, 0, "hdd", image)),
                one("USB", Drive(0, 0, "hdd", image)),
                one("VirtioSCSI", Drive(0, 0, "hdd", image)),
                one("I82078", Drive(0, 0, "floppy")),
            ],
        )
    )
    targets = [(t["dev"], t["bus"]) for t in attributes(root, "devices/disk/target")]
    assert targets == [
        *(("hda", "ide"), ("hdb", "ide"), ("sda", "sata"), ("sdb", "scsi")),
        *(("sdc", "usb"), ("vda", "virtio"), ("fda", "fdc")),
    ]
    places = [
        (a.get("bus"), a.get("unit") or a.get("port"))
        for a in attributes(root, "devices/disk/address")
    ]
    assert places == [
        *(("0", "1"), ("1", "0"), ("0", "2"), ("0", "3"), ("1", "1"), ("0", "0")),
    ]
    assert {d["type"] for d in attributes(root, "devices/disk/driver")} == {"vdi"}
    assert {s["file"] for s in attributes(root, "devices/disk/source")} == {str(image)}
    assert len(root.findall("devices/disk/readonly")) == 1
    kinds = [c["type"] for c in attributes(root, "devices/controller")]
    assert kinds == ["usb", "usb", "scsi"]


@pytest.mark.parametrize(
    ("hardware", "why"),
    [
        (Hardware(adapters={0: Adapter(mode="BridgedInterface")}), "only supports NAT"),
        (
            Hardware(controllers=[Controller("S", "AHCI", 1, [Drive(0, 0, "hdd")])]),
            "has no image",
        ),
        (
            Hardware(
                controllers=[
                    Controller("S", "AHCI", 1, [Drive(0, 0, "hdd", Path("/none"))])
                ]
            ),
            "/none does not exist",
        ),
        (Hardware(serial=SerialPort("TCP", "none")), "the first serial port"),
    ],
)
def test_what_a_machine_cannot_be(hardware: Hardware, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parsed(hardware)


def test_networks_have_names_for_the_monitor() -> None:
    root = parsed(
        Hardware(
            adapters={
                1: Adapter(mode="", card="virtio"),
                0: Adapter(mac="080027AABBCC"),
            }
        )
    )
    assert attributes(root, "devices/interface/model") == [
        {"type": "e1000"},
        {"type": "virtio"},
    ]
    assert attributes(root, "devices/interface/mac") == [
        {"address": "08:00:27:AA:BB:CC"}
    ]
    assert attributes(root, "devices/interface/link") == [{"state": "down"}]
    assert [a["name"] for a in attributes(root, "devices/interface/alias")] == [
        *(card_of(0), card_of(1)),
    ]
    assert netdev_of(0) == f"host{card_of(0)}"  # libvirt makes it of the alias


@pytest.mark.parametrize(
    ("serial", "type", "source"),
    [
        (SerialPort("RawFile", "/tmp/x"), "file", {"path": "/tmp/x"}),
        (
            SerialPort("TCP", "2300", True),
            "tcp",
            {"mode": "bind", "host": "127.0.0.1", "service": "2300"},
        ),
        (
            SerialPort("TCP", "far:2300"),
            "tcp",
            {"mode": "connect", "host": "far", "service": "2300"},
        ),
        (
            SerialPort("HostPipe", "/tmp/no/x"),
            "unix",
            {"mode": "connect", "path": "/tmp/no/x"},
        ),
    ],
)
def test_serial_ports(serial: SerialPort, type: str, source: dict[str, str]) -> None:
    root = parsed(Hardware(serial=serial))
    assert attributes(root, "devices/serial") == [{"type": type}]
    assert attributes(root, "devices/serial/source") == [source]


def test_screens_and_sound() -> None:
    hardware = Hardware(usb=("XHCI",), audio=Audio("HDA"))
    root = parsed(hardware, screens=[Path("/run/0"), Path("/run/1")])
    assert attributes(root, "devices/video/model") == [{"type": "virtio", "heads": "2"}]
    assert attributes(root, "devices/sound") == [{"model": "ich6"}]
    assert root.find("devices/input") is None
    given = arguments(root)
    assert "unix:/run/0,id=screen0,display=video0,head=0,audiodev=audio1" in given
    assert "unix:/run/1,id=screen1,display=video0,head=1" in given
    assert sum("usb-tablet" in argument for argument in given) == 2
    agent = root.find("devices/channel/target")
    assert agent is not None
    assert agent.get("name") == "com.redhat.spice.0"


def test_the_engine_of_a_machine() -> None:
    assert find_engine({}) is Engine.QEMU
    assert find_engine({"rusb/Engine": "libvirt"}) is Engine.LIBVIRT
    with pytest.raises(SettingsError, match="'xen' is invalid; choose one of qemu, li"):
        find_engine({"rusb/Engine": "xen"})
