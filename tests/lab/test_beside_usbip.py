"""The same drive at 20 ms: by vhci_hcd and our USB/IP server, and by us into QEMU."""

import random
from pathlib import Path

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.far import far_disk, far_usbip_disk, seconds
from tests.support.lab.usblab import VM, Client, Guest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("client VM"),
]

MIB = 1 << 20
RTT_MS = 20
READ, FAST = (16, 48) if IS_SOAK else (1, 8)
"""MiB that are read, and with read-ahead, which begins slowly."""

EARLY, AHEAD = (2, 10) if IS_SOAK else (1, 3)
"""How many times faster it has to be; in the gate with room for what else runs."""


def rate(vm: VM, count: int) -> float:
    """MiB a second."""
    vm.sh("dd if=/dev/sda of=/dev/null count=0")  # it has looked for partitions
    command = f"dd bs={MIB} if=/dev/sda of=/dev/null iflag=direct count={count}"
    return count / seconds(vm, command)


def test_a_drive_is_faster_than_by_usbip(
    client_vm: Client, guest: Guest, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(random.Random(1).randbytes(FAST * MIB))
    with far_usbip_disk(client_vm, tmp_path / "usbip", image, RTT_MS):
        usbip = rate(client_vm, READ)
    with far_disk(guest, tmp_path / "early", image, "early", RTT_MS):
        early = rate(guest, READ)
    with far_disk(guest, tmp_path / "ahead", image, "ahead", RTT_MS):
        ahead = rate(guest, FAST)
    print(f"MiB/s: usbip {usbip:.2f}, early {early:.2f}, ahead {ahead:.2f}")
    assert early >= EARLY * usbip
    assert ahead >= AHEAD * usbip
