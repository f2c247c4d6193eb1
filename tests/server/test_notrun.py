"""What VirtualBox's files ask for and a guest of rusb misses is named, all of it."""

from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import new_machine
from rusb.server.vbox.hardware import read_hardware
from rusb.server.vbox.notrun import parts_not_run
from tests.support.rows import each_row

DATA = Path(__file__).parent / "data"

CASES = [
    ('<AudioAdapter driver="Pulse" enabled="true" enabledIn="true"/>', "microphone"),
    ('<Chipset type="ICH9"/>', "chipset ICH9"),
    ('<Clipboard mode="Bidirectional" fileTransfersEnabled="true"/>', "files on"),
    ('<DragAndDrop mode="HostToGuest"/>', "drag and drop"),
    ('<TrustedPlatformModule type="v2_0" location=""/>', "TPM (v2_0)"),
    ('<Display accelerate3D="true"/>', "3D acceleration"),
    ('<Display accelerate2DVideo="true"/>', "2D video acceleration"),
    ('<Recording enabled="true"/>', "recording"),
    ('<VideoCapture enabled="true"/>', "recording"),
    ('<CPU count="1" hotplug="true"/>', "adding and removing processors"),
    ('<CPU count="1" executionCap="50"/>', "limit of 50 % of a processor"),
    ('<Guest memoryBalloonSize="64"/>', "memory balloon of 64 MiB"),
    ('<EmulatedUSB><CardReader enabled="true"/></EmulatedUSB>', "card reader"),
    ('<Autostart enabled="true"/>', "rusb-vm@.service"),
    (
        '<SharedFolders><SharedFolder name="src" hostPath="/src"/>'
        '<SharedFolder name="out" hostPath="/out"/></SharedFolders>',
        "shared folders (src, out)",
    ),
    (
        '<UART><Port slot="1" enabled="true" hostMode="RawFile"/></UART>',
        "serial port 2",
    ),
    (
        '<UART><Port slot="0" enabled="true" hostMode="HostDevice" path="/dev/ttyS0"/>'
        "</UART>",
        "serial port 1 on /dev/ttyS0",
    ),
    (
        '<UART><Port slot="0" enabled="true" IOBase="0x2f8" hostMode="TCP"/></UART>',
        "serial port 1 at 0x2f8",
    ),
    ('<LPT><Port slot="0" enabled="true"/></LPT>', "parallel port 1"),
    ('<HostPci><Devices><Device host="1"/></Devices></HostPci>', "PCI device"),
    ('<Sandwich with="ham"/>', "<Sandwich>, which rusb does not know"),
    (
        '<StorageControllers><StorageController name="IDE" type="PIIX4">'
        '<AttachedDevice type="DVD"><HostDrive src="/dev/sr0"/></AttachedDevice>'
        "</StorageController></StorageControllers>",
        "drive of the host (/dev/sr0)",
    ),
    (
        '<Firmware type="EFI"/><BIOS><NVRAM path="x"><SecureBoot enabled="true"/>'
        "</NVRAM></BIOS>",
        "secure boot",
    ),
    ('<Firmware type="EFI"/><BIOS><NVRAM path="x"/></BIOS>', "NVRAM"),
]

ADAPTERS = [
    ('type="ICH9LAN"><NAT/>', "network adapter 2: card ICH9LAN"),
    ('trace="true"><NAT/>', "network adapter 2: tracing"),
    ('bandwidthGroup="Slow"><NAT/>', "network adapter 2: limit of its bandwidth"),
    ('><NAT network="10.1/16"/>', "network adapter 2: network 10.1/16"),
    ("><NAT><TFTP/></NAT>", "network adapter 2: TFTP server"),
]


def document(inside: str = "", *, where: str = "<Hardware>") -> Document:
    data = new_machine("M")[1].replace(where.encode(), (where + inside).encode())
    return Document(data.replace(b'<CPU count="1"/>', b"", inside.startswith("<CPU")))


@each_row(("inside", "text"), CASES)
def test_a_part_is_named_once(inside: str, text: str) -> None:
    found = parts_not_run(document(inside))
    assert [text in part for part in found].count(True) == 1
    assert len(found) == (2 if text == "secure boot" else 1)


@pytest.mark.parametrize(("inside", "text"), ADAPTERS)
def test_a_part_of_an_adapter_is_named(inside: str, text: str) -> None:
    adapter = f'<Adapter slot="1" enabled="true" {inside}</Adapter>'
    (found,) = parts_not_run(document(adapter, where="<Network>"))
    assert text in found
    off = adapter.replace("true", "false", 1)
    assert parts_not_run(document(off, where="<Network>")) == []


def test_what_is_off_is_not_named() -> None:
    inside = """
      <AudioAdapter driver="Null" enabled="false"/><Chipset type="PIIX3"/>
      <Clipboard mode="Disabled"/><DragAndDrop/><Display accelerate3D="false"/>
      <TrustedPlatformModule type="None"/><RTC localOrUTC="local"/>
      <Guest memoryBalloonSize="0"/><Recording enabled="false"/>
      <UART><Port slot="1" enabled="false" hostMode="RawFile"/>
      <Port slot="0" enabled="true" IOBase="0x3f8" hostMode="RawFile"/></UART>
      <LPT><Port slot="0" enabled="false"/></LPT><BIOS><NVRAM path="x"/></BIOS>
      <GuestProperties/><Paravirt provider="Default"/><HID Keyboard="USBKeyboard"/>
    """
    assert parts_not_run(document(inside)) == []


def test_the_machine_itself() -> None:
    inside = """<Snapshot name="before" uuid="{1}"/>
      <ExtraData><ExtraDataItem name="VBoxInternal/Devices/x" value="1"/>
      <ExtraDataItem name="GUI/x" value="1"/></ExtraData>"""
    data = new_machine("M")[1].replace(b"<Hardware>", inside.encode() + b"<Hardware>")
    data = data.replace(b"<Machine ", b'<Machine stateFile="x.sav" ')
    found = parts_not_run(Document(data))
    assert [part.split(":")[0] for part in found] == [
        "saved state",
        "snapshots (before)",
        "extra data for the internals of VirtualBox (VBoxInternal/Devices/x)",
    ]


def test_a_file_of_virtualbox() -> None:
    found = parts_not_run(Document((DATA / "seven-1.19.vbox").read_bytes()))
    assert [part.split(":")[0] for part in found] == [
        "TPM (v2_0)",
        "recording of the screen",
        "emulated card reader",
        "NVRAM",
    ]
    found = parts_not_run(Document((DATA / "later-1.42.vbox").read_bytes()))
    assert "<USB4>, which rusb does not know" in found


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            '<HardDisk uuid="{2}" location="b"><HardDisk uuid="{1}" {}/></HardDisk>',
            "it belongs to a snapshot",
        ),
        (
            '<HardDisk uuid="{1}" {}><Property name="CRYPT/KeyId"/></HardDisk>',
            "it is encrypted",
        ),
    ],
)
def test_an_image_that_qemu_would_misread_is_refused(entry: str, sentence: str) -> None:
    image = entry.replace("{}", 'location="a.vdi"')
    drive = """<StorageControllers><StorageController name="S" type="AHCI">
      <AttachedDevice type="HardDisk" port="0"><Image uuid="{1}"/></AttachedDevice>
      </StorageController></StorageControllers>"""
    registry = f"<MediaRegistry><HardDisks>{image}</HardDisks></MediaRegistry>"
    data = new_machine("M")[1].replace(b"<Network>", drive.encode() + b"<Network>")
    data = data.replace(b"<Hardware>", registry.encode() + b"<Hardware>")
    with pytest.raises(SettingsError, match=f"/x/a.vdi cannot be used: {sentence}"):
        read_hardware(Document(data), Path("/x")).drives()
