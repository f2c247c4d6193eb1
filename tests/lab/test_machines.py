"""The lab itself: its machines see what is plugged into them (qemu-lab.md 7)."""

import hashlib
import random
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.redirpeer import SUPER, Peer, RamDisk, plug
from tests.support.lab.usblab import Client, Guest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

MIB = 1 << 20


@pytest.fixture(scope="module")
def blob() -> bytes:
    return random.Random(1).randbytes(8 * MIB)


def md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data).hexdigest()


def test_a_redirected_disk_is_plugged_read_written_and_unplugged(
    guest: Guest, blob: bytes
) -> None:
    image, path = bytearray(blob), str(guest.dir / "r0")
    guest.add_usb_redir("u0", path)
    peer = plug(path, RamDisk(image))
    guest.wait("test -b /dev/sda")
    assert guest.sh("md5sum /dev/sda").split()[0] == md5(image)
    guest.sh("dd if=/dev/zero of=/dev/sda bs=1M count=2 conv=fsync")
    assert image[: 2 * MIB] == bytes(2 * MIB)
    peer.close()
    guest.wait("! test -b /dev/sda")

    peer = plug(path, RamDisk(image, SUPER))
    guest.wait("test -b /dev/sda")
    guest.unplug("u0")
    guest.wait("! test -b /dev/sda")
    peer.thread.join(10)
    assert not peer.thread.is_alive()
    peer.close()


def test_live_migration_keeps_the_device(guest: Guest, blob: bytes) -> None:
    image = bytearray(blob)
    guest.add_usb_redir("u0", str(guest.dir / "r0"))
    peer = plug(str(guest.dir / "r0"), RamDisk(image))
    guest.wait("test -b /dev/sda")
    second_path = guest.dir / "second"
    redir = f"socket,id=cu0,path={second_path},server=on,wait=off"
    with (
        Guest(
            *("-chardev", redir, "-device", "usb-redir,chardev=cu0,id=u0,bus=xhci.0"),
            incoming=f"unix:{guest.dir}/migration",
        ) as target,
        socket.socket(socket.AF_UNIX) as stream,
    ):
        stream.connect(str(second_path))  # before the load, and without a hello
        guest.migrate(f"unix:{guest.dir}/migration")
        guest.process.kill()
        peer.close()
        moved = Peer(stream, peer.device, resume_capabilities=peer.peer_capabilities)
        target.sh("echo 3 >/proc/sys/vm/drop_caches")
        assert target.sh("md5sum /dev/sda").split()[0] == md5(image)
        assert not target.ok("dmesg | grep 'USB disconnect'")
        moved.close()


READ_A_SECTOR = textwrap.dedent("""
    import hashlib, struct
    import libusb_package, usb.backend.libusb1, usb.core, usb.util

    backend = usb.backend.libusb1.get_backend(libusb_package.find_library)
    for device in usb.core.find(find_all=True, backend=backend):
        print("DEV %04x:%04x" % (device.idVendor, device.idProduct))
    device = usb.core.find(idVendor=0x46F4, idProduct=1, backend=backend)
    device.detach_kernel_driver(0)
    usb.util.claim_interface(device, 0)
    read = struct.pack(">BBIBHB", 0x28, 0, 5, 0, 1, 0).ljust(16, b"\\0")
    head = struct.pack("<4sIIBBB", b"USBC", 7, 512, 0x80, 0, 10)
    device.write(2, head + read)
    print("MD5", hashlib.md5(bytes(device.read(0x81, 512))).hexdigest())
    assert bytes(device.read(0x81, 13)) == struct.pack("<4sIIB", b"USBS", 7, 0, 0)
    usb.util.release_interface(device, 0)
    device.attach_kernel_driver(0)
""")


@pytest.fixture
def disk(client_vm: Client, tmp_path: Path, blob: bytes) -> Iterator[Path]:
    """A disk of QEMU's own in the client VM."""
    image = tmp_path / "disk.img"
    image.write_bytes(blob)
    client_vm.add_disk("d0", image)
    client_vm.wait("test -b /dev/sda")
    yield image
    client_vm.remove_disk("d0")


def test_libusb_in_the_client_vm_reads_its_disk(client_vm: Client, disk: Path) -> None:
    client_vm.put("/run/t.py", READ_A_SECTOR.encode())
    output = client_vm.sh(f"{sys.executable} /run/t.py")
    assert "DEV 46f4:0002" in output  # the sound card
    assert "DEV 0627:0001" in output  # the keyboard
    assert f"MD5 {md5(disk.read_bytes()[5 * 512 : 6 * 512])}" in output


def test_the_client_vm_reaches_a_server_on_the_host(client_vm: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"pong")

        thread = threading.Thread(target=answer_once)
        thread.start()
        address = ("10.0.2.2", server.getsockname()[1])
        code = f"import socket; print(socket.create_connection({address}).recv(9))"
        assert client_vm.sh(f'{sys.executable} -c "{code}"').strip() == "b'pong'"
        thread.join()


WATCH_HOTPLUG = textwrap.dedent("""
    import ctypes
    import libusb_package, usb1, usb1._libusb1

    usb1._libusb1.loadLibrary(ctypes.CDLL(str(libusb_package.get_library_path())))
    context = usb1.USBContext()
    context.open()

    def changed(context, device, event):
        if (device.getVendorID(), device.getProductID()) == (0x46F4, 1):
            print("EVENT", event, flush=True)

    context.hotplugRegisterCallback(changed)
    print("UP", flush=True)
    while True:
        context.handleEventsTimeout(1)
""")


def test_libusb_in_the_client_vm_hears_of_plugging(
    client_vm: Client, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    client_vm.put("/run/h.py", WATCH_HOTPLUG.encode())
    client_vm.sh(f"{sys.executable} /run/h.py >/run/h.log 2>&1 & echo $! >/run/h.pid")
    client_vm.wait("grep -q UP /run/h.log")
    client_vm.add_disk("d1", image)
    client_vm.wait("grep -q 'EVENT 1' /run/h.log")
    client_vm.remove_disk("d1")
    client_vm.wait("grep -q 'EVENT 2' /run/h.log")
    client_vm.sh("kill $(cat /run/h.pid)")
