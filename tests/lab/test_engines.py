"""Machines of ``startvm``, run by QEMU and by libvirt: a Linux sees the same."""

import hashlib
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.lab.console import Console
from tests.support.lab.fatimage import fat_image
from tests.support.lab.peers import wait
from tests.support.lab.vboxshell import WITH_BOTH, Shell
from tests.support.rusbserver import free_ports

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTENT = random.Random(15).randbytes(1 << 20)
SUM = hashlib.sha256(CONTENT).hexdigest()

PATIENCE = 90.0
"""Seconds that the machine may be silent while it boots."""


@WITH_BOTH
def test_a_machine_lives_and_has_a_remote_disk(
    shell: Shell, iso: Path, request: pytest.FixtureRequest
) -> None:
    engine = request.node.callspec.params["shell"]
    path = Path(shell.env["RUSB_RUNTIME"]) / "console"
    make(shell, iso, path)
    shell(f"VBoxManage startvm Lab --type headless --engine {engine}")
    assert engine in shell("VBoxManage getextradata Lab rusb/Engine")
    assert '"Lab"' in shell("VBoxManage list runningvms")
    assert is_domain(shell) == (engine == "libvirt")
    assert state(shell) == "running"
    with Console(path, PATIENCE) as console:
        console.wait("SYSTEM IS UP")
        use_a_disk(shell, console)
        control(shell, console)
    shell("VBoxManage controlvm Lab poweroff")
    assert shell("VBoxManage list runningvms") == ""
    assert state(shell) == "poweroff"
    assert not is_domain(shell)
    said = shell("VBoxManage controlvm Lab reset", 1)
    assert "is not running" in said


def make(shell: Shell, iso: Path, console: Path) -> None:
    """A machine that boots a small Linux."""
    port = free_ports(4)
    shell("VBoxManage createvm --name Lab --register")
    shell("VBoxManage setextradata Lab rusb/Engine")  # startvm says which
    shell("VBoxManage modifyvm Lab --memory 192 --acpi on --usbxhci on --boot1 dvd")
    shell(f"VBoxManage modifyvm Lab --uart1 0x3F8 4 --uartmode1 server {console}")
    vrde = f"--vrde on --vrdeaddress 127.0.0.1 --vrdeport {port}-{port + 3}"
    shell(f"VBoxManage modifyvm Lab {vrde}")
    shell("VBoxManage storagectl Lab --name IDE --add ide")
    place = "VBoxManage storageattach Lab --storagectl IDE --port 0 --device 0"
    shell(f"{place} --type dvddrive --medium {iso}")
    shell("VBoxManage usbfilter add 0 --target Lab --name all --remote yes")


def info(shell: Shell) -> str:
    """What is shown to programs."""
    return shell("VBoxManage showvminfo Lab --machinereadable")


def state(shell: Shell) -> str:
    """How the machine is."""
    return info(shell).partition('VMState="')[2].partition('"')[0]


def is_domain(shell: Shell) -> bool:
    """Does libvirt know the machine?"""
    uri = shell.env.get("LIBVIRT_DEFAULT_URI")
    if not uri:
        return False
    listed = subprocess.run(
        ["virsh", "-c", uri, "list", "--name"],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return "Lab" in listed.stdout.split()


def use_a_disk(shell: Shell, console: Console) -> None:
    """Plug a client's disk in, read it, pull it out."""
    image = shell.folder / "disk.img"
    image.write_bytes(fat_image(17 << 20, {"DATA.BIN": CONTENT}))
    (port,) = re.findall(r"vrdeport=(\d+)", info(shell))
    client = shell.start(
        f"rdesktop-vrdp -r usb -a 16 -N 127.0.0.1:{port}",
        RUSB_BACKENDS=f"emulated:flash-drive={image}",
    )
    try:
        console("mkdir -p /mnt; until [ -b /dev/sda ]; do sleep 0.2; done; echo")
        assert console("mount -t vfat /dev/sda /mnt && echo mounted") == "mounted"
        assert console("sha256sum /mnt/DATA.BIN").split()[0] == SUM
        console("umount /mnt; echo")
        assert "Flash Drive" in info(shell)
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(20)
    console("while [ -b /dev/sda ]; do sleep 0.2; done; echo")
    wait(lambda: "Flash Drive" not in info(shell), "its end")


def control(shell: Shell, console: Console) -> None:
    """What a machine is told while it runs, and what it cannot be told."""
    button = "cd /sys/class/input; grep -l 'Power Button' event*/device/name"
    console(f"event=$({button} | cut -d/ -f1); cd; echo")
    console("head -c 24 /dev/input/$event >pressed &")
    shell("VBoxManage controlvm Lab acpipowerbutton")
    console("until [ -s pressed ]; do sleep 0.2; done; echo")
    shell("VBoxManage controlvm Lab pause")
    assert state(shell) == "paused"
    shell("VBoxManage controlvm Lab resume")
    assert state(shell) == "running"
    said = shell("VBoxManage controlvm Lab savestate", 1)
    assert "the state of a machine cannot be saved" in said
    shell("VBoxManage controlvm Lab reset")
    console.wait("Linux version")
