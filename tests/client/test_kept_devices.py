"""What ``rusb connect`` leaves out because this machine uses it itself."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.cli import connect as connect_command
from rusb.cli import main, rdesktop
from rusb.client.backends._routes import interfaces_to
from rusb.client.backends._sysfs import Sysfs
from rusb.client.backends.libusb import LibusbBackend, is_boot_input, is_isochronous
from rusb.client.config import ClientConfig
from rusb.client.devices import DeviceCatalog
from rusb.client.events import DeviceLeftOut, DeviceOffered, SessionEvent
from rusb.client.session import connect
from rusb.errors import DeviceGone
from rusb.filters.parser import parse_offer
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from tests.support.whole_path import Lab, machine

MOUSE = DeviceInfo(
    0, 0x046D, 0xC077, product="Mouse", serial="M1", port=3, manufacturer="Logi"
)
CAMERA = DeviceInfo(0, 0x046D, 0x0825, product="Camera", port=4, manufacturer="Logi")


class Host(DeviceBackend):
    """A machine with a mouse of its own and a camera."""

    async def list_devices(self) -> list[LocalDevice]:
        kept = "it is a keyboard or mouse of this machine"
        return [
            LocalDevice("1-3@3", MOUSE, kept=kept),
            LocalDevice("1-4@4", CAMERA, has_isochronous=True),
        ]

    async def open(self, device: LocalDevice) -> OpenDevice:
        raise DeviceGone("only a list")

    def watch(self, changed: Callable[[], None]) -> None:
        pass

    async def aclose(self) -> None:
        pass


BOTH, CAMERA_ONLY, MOUSE_ONLY = {"Mouse", "Camera"}, {"Camera"}, {"Mouse"}


@pytest.mark.parametrize(
    ("rules", "wants_all", "offered"),
    [
        ([], False, CAMERA_ONLY),
        ([], True, BOTH),
        (["046d:"], False, CAMERA_ONLY),  # a vendor has many products
        (["product=*"], False, CAMERA_ONLY),
        (["product=M*"], False, set()),
        (["manufacturer=Logi"], False, CAMERA_ONLY),
        (["046d:c077"], False, MOUSE_ONLY),
        (["046d:c077", "046d:"], False, BOTH),
        (["product=Mouse"], False, MOUSE_ONLY),
        (["serial=M1"], False, MOUSE_ONLY),
        (["port=3"], False, MOUSE_ONLY),
        (["046d:0825"], False, CAMERA_ONLY),
        (["!046d:c077"], True, CAMERA_ONLY),
        (["!product=C*"], True, MOUSE_ONLY),
        (["046d:", "!046d:0825"], True, MOUSE_ONLY),
        (["046d:c077", "!serial=M1"], True, set()),
    ],
)
async def test_what_is_offered(
    rules: list[str], wants_all: bool, offered: set[str]
) -> None:
    catalog = DeviceCatalog(
        [Host()],
        [parse_offer(r) for r in rules if r[0] != "!"],
        excluded=[parse_offer(r[1:]) for r in rules if r[0] == "!"],
        wants_all=wants_all,
    )
    assert {info.product for info in await catalog.refresh()} == offered


async def test_what_is_left_out_is_listed_once_with_the_reason_and_the_way_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[SessionEvent] = []
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        async with connect(lab.config(), backends=[Host()], on_event=events.append):
            await lab.wait_log("Remote USB: ++++")
            await asyncio.sleep(2.2)  # the server asks for the list every two seconds
    (left_out,) = [e for e in events if isinstance(e, DeviceLeftOut)]
    connect_command._tell(left_out)
    assert capsys.readouterr().err == (
        "left out 046d:c077 Logi Mouse: it is a keyboard or mouse of this machine. To"
        " offer it anyway: --all, or --filter 046d:c077\n"
    )
    (line,) = [str(e) for e in events if isinstance(e, DeviceOffered)]
    assert "Camera; its isochronous endpoints (sound, video) will not work" in line


def test_the_command_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[ClientConfig] = []

    async def note(config: ClientConfig, *_: object) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(connect_command, "offer_devices", note)
    monkeypatch.setattr(rdesktop, "_run", note)
    assert main(["connect", "host", "--filter", "046d:", "--filter", "!046d:1"]) == 0
    assert main(["connect", "host", "--all"]) == 0
    assert main(["rdesktop", "-r", "usb", "host"]) == 0
    first, second, original = found
    assert [f.name for f in first.filters] == ["046d:"]
    assert [f.name for f in first.excluded] == ["046d:1"]
    assert (first.wants_all, second.wants_all, original.wants_all) == (
        *(False, True, True),
    )


# -------------------------------------------------------------- descriptors ----


@pytest.mark.parametrize(
    ("descriptor", "is_input"),
    [
        ("090400000103010100", True),  # keyboard
        ("090402000103010200", True),  # mouse, in a composite device
        ("090400000103000000", False),  # HID without boot protocol
        ("090400000103010000", False),
        ("090400000208065000", False),
        ("0904000001030101", True),  # cut short
        ("07058103080004", False),
    ],
)
def test_boot_keyboards_and_mice(descriptor: str, is_input: bool) -> None:
    assert is_boot_input(bytes.fromhex(descriptor)) is is_input


@pytest.mark.parametrize(
    ("descriptor", "is_iso"),
    [
        ("07058105c00001", True),
        ("0705810308000a", False),
        ("090400000103010100", False),
    ],
)
def test_isochronous_endpoints(descriptor: str, is_iso: bool) -> None:
    assert is_isochronous(bytes.fromhex(descriptor)) is is_iso


# -------------------------------------------------------------------- sysfs ----


def usb(root: Path, name: str) -> Path:
    """Make a device of bus 1 and return its first interface."""
    path = root / "devices/pci0000:00/usb1" / name / f"{name}:1.0"
    path.mkdir(parents=True)
    (root / "bus").mkdir(exist_ok=True)
    (root / "bus" / name).symlink_to(path.parent)
    return path


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """1-1: a disk with the partitions 8:1 and 8:2; 1-2: the adapter usb0; 1-3."""
    for folder in ("dev/block", "class/net", "class/block"):
        (tmp_path / folder).mkdir(parents=True)
    disk = usb(tmp_path, "1-1") / "host0/block/sda"
    for number, name in (("8:1", "sda1"), ("8:2", "sda2")):
        (disk / name).mkdir(parents=True)
        (tmp_path / "dev/block" / number).symlink_to(disk / name)
        (tmp_path / "class/block" / name).symlink_to(disk / name)
    adapter = usb(tmp_path, "1-2")
    net = adapter / "net/usb0"
    net.mkdir(parents=True)
    (net / "device").symlink_to(adapter)
    (tmp_path / "class/net/usb0").symlink_to(net)
    usb(tmp_path, "1-3")
    inside = tmp_path / "devices/pci0000:00/ata1/block/nvme0n1p2"
    inside.mkdir(parents=True)
    (tmp_path / "dev/block/259:2").symlink_to(inside)
    (tmp_path / "route").write_text(HEADING)
    (tmp_path / "route6").write_text("")
    return Sysfs(
        devices=tmp_path / "bus",
        mounts=tmp_path / "mounts",
        root=tmp_path,
        routes=tmp_path / "route",
        routes_v6=tmp_path / "route6",
    )


def virtual(sysfs: Sysfs, number: str, name: str, *slaves: str) -> None:
    """Make a block device of the device mapper, on top of others."""
    path = sysfs.root / "devices/virtual/block" / name
    (path / "slaves").mkdir(parents=True)
    (sysfs.root / "dev/block" / number).symlink_to(path)
    for slave in slaves:
        (path / "slaves" / slave).symlink_to(sysfs.root / "dev/block" / slave)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("36 1 8:2 / / rw - ext4 /dev/sda2 rw", "/dev/sda2"),
        ("36 1 8:2 / /media rw - ext4 /dev/sda2 rw", None),
        ("36 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw", None),
        ("36 1 254:0 / / rw - ext4 /dev/mapper/root rw", "/dev/sda2"),
        ("36 1 254:1 / / rw - ext4 /dev/mapper/crypt rw", "/dev/sda2"),
        ("36 1 0:28 /@ / rw shared:1 - btrfs /dev/sda1 rw", "/dev/sda1"),
        ("36 1 0:28 / / rw - overlay overlay rw", None),
        ("garbage", None),
    ],
)
def test_the_disk_of_the_root_file_system(
    line: str, found: str | None, sysfs: Sysfs
) -> None:
    virtual(sysfs, "254:0", "dm-0", "8:2")
    virtual(sysfs, "254:1", "dm-1", "254:0")  # LVM in an encrypted partition
    sysfs.mounts.write_text(line + "\n")
    assert sysfs.root_disk("1-1") == found
    assert sysfs.root_disk("1-3") is None


HEADING = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
DEFAULT = "usb0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
LAN = "eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
OTHER = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n"
TUNNEL = "tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"
NONE = "0" * 32
V6_DEFAULT = f"{NONE} 00 {NONE} 00 {NONE} 00000400 1 0 00000003 usb0\n"
V6_REJECT = f"{NONE} 00 {NONE} 00 {NONE} ffffffff 1 0 00200200 lo\n"


@pytest.mark.parametrize(
    ("peer", "v4", "v6", "interfaces"),
    [
        ("192.168.2.9", LAN + DEFAULT, "", ["eth0", "usb0"]),
        ("198.51.100.1", LAN + DEFAULT, "", ["usb0"]),
        ("198.51.100.1", DEFAULT + OTHER, "", ["eth0", "usb0"]),
        ("10.1.1.1", TUNNEL + DEFAULT, "", ["tun0", "usb0"]),
        ("::ffff:198.51.100.1", DEFAULT, "", ["usb0"]),
        ("2001:db8::1", LAN, V6_REJECT + V6_DEFAULT, ["usb0"]),
        ("fe80::1%usb0", "", V6_DEFAULT, ["usb0"]),
        ("127.0.0.1", DEFAULT, V6_DEFAULT, []),
        ("::1", DEFAULT, V6_DEFAULT, []),
        ("", DEFAULT, V6_DEFAULT, []),
        ("192.168.2.9", "garbage\n" * 3, "x y\n", []),
    ],
)
def test_routes(
    peer: str, v4: str, v6: str, interfaces: list[str], tmp_path: Path
) -> None:
    (tmp_path / "4").write_text(HEADING + v4)
    (tmp_path / "6").write_text(v6)
    assert interfaces_to(peer, tmp_path / "4", tmp_path / "6") == interfaces
    assert interfaces_to(peer, tmp_path / "no", tmp_path / "no") == []


def test_the_network_adapter_of_the_connection(sysfs: Sysfs) -> None:
    sysfs.routes.write_text(HEADING + LAN + DEFAULT)
    assert sysfs.network("1-2", "198.51.100.1") == "usb0"
    assert sysfs.network("1-1", "198.51.100.1") is None
    assert sysfs.network("1-2", "127.0.0.1") is None
    bridge = sysfs.root / "class/net/br0"
    bridge.mkdir()
    (bridge / "lower_usb0").symlink_to(sysfs.root / "class/net/usb0")
    sysfs.routes.write_text(HEADING + DEFAULT.replace("usb0", "br0"))
    assert sysfs.network("1-2", "198.51.100.1") == "br0"


def test_each_reason_has_its_sentence(sysfs: Sysfs, tmp_path: Path) -> None:
    backend = LibusbBackend(sysfs=sysfs, state=tmp_path)
    sysfs.mounts.write_text("36 1 8:2 / / rw - ext4 /dev/sda2 rw\n")
    sysfs.routes.write_text(HEADING + DEFAULT)
    keyboard = [bytes.fromhex("090400000103010100")]
    assert backend._kept("1-3", keyboard) == "it is a keyboard or mouse of this machine"
    assert backend._kept("1-1", []) == "the root file system is on it, /dev/sda2"
    assert backend._kept("1-2", []) is None  # nobody is called yet
    backend.peer = "198.51.100.1"
    assert backend._kept("1-2", []) == (
        "it is the network adapter of this connection, usb0"
    )
    assert backend._kept("1-3", []) is None


class Broken(Host):
    """A backend that cannot list its devices."""

    async def list_devices(self) -> list[LocalDevice]:
        raise OSError("no list")


async def test_a_backend_that_fails_beside_another_is_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalog = DeviceCatalog([Broken(), Host()])
    for _ in range(3):
        assert [info.product for info in await catalog.refresh()] == ["Camera"]
    assert caplog.text.count("cannot list USB devices: no list") == 1
