"""The step-by-step section of VirtualBox's manual, its commands typed as printed there.

Only the medium differs: a small Linux instead of Windows. The programs are reached by
their old names, which ``rusb aliases`` makes.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lab.assets import LabError
from tests.support.lab.libvirtlab import Libvirt
from tests.support.lab.peers import wait
from tests.support.lab.vboxshell import WITH_BOTH, Shell
from tests.support.rusbserver import free_port, free_ports

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@WITH_BOTH
def test_the_manual_step_by_step(shell: Shell, iso: Path) -> None:
    serial = shell.folder / "serial.log"

    said = shell(
        'VBoxManage createvm --name "Windows XP" --ostype WindowsXP --register'
    )
    assert "is created and registered" in said
    shell(
        'VBoxManage modifyvm "Windows XP" --memory 256 --acpi on --boot1 dvd --nic1 nat'
    )
    shell('VBoxManage createhd --filename "WinXP.vdi" --size 10000')
    shell(
        'VBoxManage storagectl "Windows XP" --name "IDE Controller"'
        " --add ide --controller PIIX4"
    )
    shell(
        'VBoxManage storageattach "Windows XP" --storagectl "IDE Controller"'
        ' --port 0 --device 0 --type hdd --medium "WinXP.vdi"'
    )
    shell(
        'VBoxManage storageattach "Windows XP" --storagectl "IDE Controller"'
        f" --port 0 --device 1 --type dvddrive --medium {iso}"
    )
    # what the chapter's other sections add: remote USB, a port list, a serial log
    shell(
        'VBoxManage modifyvm "Windows XP" --usbxhci on --vrdeport 42100-42199'
        " --vrdeaddress 127.0.0.1"
    )
    shell(f'VBoxManage modifyvm "Windows XP" --uart1 0x3F8 4 --uartmode1 file {serial}')
    shell(
        'VBoxManage usbfilter add 0 --target "Windows XP" --name Sticks'
        " --product '*Flash*' --remote yes"
    )

    headless = shell.start('VBoxHeadless --startvm "Windows XP"')
    try:
        _use(shell, serial)
        shell('VBoxManage controlvm "Windows XP" poweroff')
        assert headless.wait(30) == 0
    finally:
        headless.kill()
        headless.wait()
    assert shell("VBoxManage list runningvms") == ""
    log = shell.folder / "data/rusb/VirtualBox VMs/Windows XP/Logs/VBox.log"
    for text in ("++++ Vendor 1209. Product 0001", "VUSB: Attached", "VUSB: Detached"):
        assert text in log.read_text()


def _use(shell: Shell, serial: Path) -> None:
    """Wait for the guest, plug a stick in, pull it out."""

    def kernel() -> str:
        return serial.read_text(errors="replace") if serial.exists() else ""

    def story() -> str:
        return shell.said("VBoxHeadless") + kernel()[-2000:]

    wait(lambda: "listening on port" in shell.said("VBoxHeadless"), "VRDE", story)
    match = re.search(r"listening on port (\d+)", shell.said("VBoxHeadless"))
    if match is None:
        raise LabError(story())
    port = match[1]
    assert f"vrdeport={port}" in shell(
        'VBoxManage showvminfo "Windows XP" --machinereadable'
    )
    assert '"Windows XP"' in shell("VBoxManage list runningvms")
    wait(lambda: "SYSTEM IS UP" in kernel(), "the guest's kernel", story, 90)
    client = shell.start(
        f"rdesktop-vrdp -r usb -a 16 -N 127.0.0.1:{port}",
        RUSB_BACKENDS="emulated:flash-drive,keyboard",
    )
    try:
        found = "New USB device found, idVendor=1209, idProduct=0001"
        wait(lambda: found in kernel(), "the stick", story, 40)
        wait(lambda: "Direct-Access" in kernel(), "its disk", story, 40)
        keyboard = "idVendor=1209, idProduct=0002"
        assert keyboard not in kernel()  # no filter admits it
        attached = shell('VBoxManage showvminfo "Windows XP"')
        available, _, attached = attached.partition("Currently Attached")
        assert "Flash Drive" in attached
        assert "Keyboard" in available
        why = shell('VBoxManage usbfilter explain "Windows XP" 1209:0002')
        assert "product wanted *Flash*, found Keyboard" in why
        cure = re.search(r"usbfilter add .*--remote yes", why)
        assert cure is not None
        shell(f"VBoxManage {cure[0]}")
        wait(lambda: keyboard in kernel(), "the keyboard", story, 40)
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(20)
    wait(lambda: kernel().count("USB disconnect") == 2, "their end", story, 40)
    _use_a_device_of_the_host(shell, kernel, story)


def _use_a_device_of_the_host(
    shell: Shell, kernel: Callable[[], str], story: Callable[[], str]
) -> None:
    """``controlvm usbattach`` plugs a device of the server's machine in."""
    address = re.search(r"Address: +(\S+)", shell("VBoxManage list usbhost"))
    assert address is not None
    before = kernel().count("idVendor=1209, idProduct=0003")
    shell(f'VBoxManage controlvm "Windows XP" usbattach {address[1]}')
    wait(
        lambda: kernel().count("idVendor=1209, idProduct=0003") > before,
        "the serial port",
        story,
        40,
    )
    again = shell(f'VBoxManage controlvm "Windows XP" usbattach {address[1]}', 1)
    assert "attached already" in again
    attached = shell('VBoxManage showvminfo "Windows XP" --machinereadable')
    assert "USBAttachProductId1=0x0003" in attached
    shell(f'VBoxManage controlvm "Windows XP" usbdetach {address[1]}')
    wait(lambda: kernel().count("USB disconnect") == 3, "its end", story, 40)
    gone = shell(f'VBoxManage controlvm "Windows XP" usbdetach {address[1]}', 1)
    assert "no device" in gone


@WITH_BOTH
def test_start_and_stop_by_name(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --vrde off --usb on")
    assert "power on" in shell("VBoxManage startvm Small --type headless")
    shell("VBoxManage modifyvm Small --memory 64", status=1)
    assert "already running" in shell("VBoxManage startvm Small --type headless", 1)
    shell("VBoxManage unregistervm Small --delete", status=1)
    shell("VBoxManage controlvm Small pause")
    assert 'VMState="paused"' in shell("VBoxManage showvminfo Small --machinereadable")
    shell("VBoxManage controlvm Small resume")
    shell("VBoxManage controlvm Small poweroff")
    shell("VBoxManage unregistervm Small --delete")
    assert shell("VBoxManage list vms") == ""


@WITH_BOTH
def test_the_bound_port_is_shown_when_the_first_is_busy(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --vrde on --vrdeaddress 127.0.0.1")
    first = free_ports(4)
    ports = f"{first},{first + 1}-{first + 3}"
    shell(f"VBoxManage modifyvm Small --vrdeport {ports}")
    with socket.create_server(("127.0.0.1", first)):
        shell("VBoxManage startvm Small --type headless")
        found = shell("VBoxManage showvminfo Small --machinereadable")
        port = re.search(r"vrdeport=(\d+)\n", found)
        assert port is not None
        assert first < int(port[1]) <= first + 3
        assert re.search(
            rf"VRDE port: +{port[1]}\n", shell("VBoxManage showvminfo Small")
        )
        socket.create_connection(("127.0.0.1", int(port[1])), 5).close()
        shell("VBoxManage controlvm Small poweroff")
    assert "vrdeport=-1" in shell("VBoxManage showvminfo Small --machinereadable")
    assert "VRDE port" not in shell("VBoxManage showvminfo Small")


@WITH_BOTH
def test_what_keeps_a_machine_from_starting_is_said(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --usb-xhci on")
    shell("VBoxManage storagectl Small --name SATA --add sata")
    shell("VBoxManage createmedium --filename gone.qcow2 --size 10")
    shell(
        "VBoxManage storageattach Small --storagectl SATA --port 0 --type hdd"
        " --medium gone.qcow2"
    )
    (shell.folder / "gone.qcow2").rename(shell.folder / "away.qcow2")
    for line in ("VBoxHeadless -s Small", "VBoxManage startvm Small --type headless"):
        assert "gone.qcow2 does not exist" in shell(line, status=1)
    (shell.folder / "gone.qcow2").write_bytes(b"no image")
    said = shell("VBoxHeadless -s Small", status=1)
    assert "Image is not in qcow2 format" in said
    (shell.folder / "away.qcow2").rename(shell.folder / "gone.qcow2")

    said = shell("VBoxHeadless -s Small --vrde maybe", status=2)
    assert "invalid value 'maybe' for --vrde" in said
    said = shell("VBoxManage startvm Large --type headless", status=1)
    assert "could not find a registered machine named 'Large'" in said
    assert "invalid value" in shell("VBoxManage startvm Small --type x", status=2)
    assert "is not running" in shell("VBoxManage controlvm Small reset", status=1)

    # a port that others have: it starts, and says so
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        shell(f"VBoxManage modifyvm Small --vrde on --vrdeport {port}")
        shell("VBoxManage modifyvm Small --vrdeaddress 127.0.0.1")
        said = shell("VBoxManage startvm Small --type headless")
        assert "its VRDE server did not start" in said
    found = shell("VBoxManage showvminfo Small --machinereadable")
    assert "vrdeport=0" in found
    shell("VBoxManage controlvm Small vrde off")
    shell("VBoxManage controlvm Small vrde on")
    found = shell("VBoxManage showvminfo Small --machinereadable")
    assert f"vrdeport={port}" in found
    shell("VBoxManage controlvm Small vrdp off")
    found = shell("VBoxManage showvminfo Small --machinereadable")
    assert 'vrde="off"' in found
    shell("VBoxManage controlvm Small poweroff")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(shell: Shell, number: signal.Signals) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --vrdeport 42200-42299")
    headless = shell.start("VBoxHeadless --startvm Small")
    try:
        wait(lambda: "listening on port" in shell.said("VBoxHeadless"), "VRDE")
        headless.send_signal(number)
        assert headless.wait(30) == 0
    finally:
        headless.kill()
        headless.wait()
    runtime = Path(shell.env["RUSB_RUNTIME"])
    assert [p.name for p in runtime.iterdir() if p.suffix != ".lock"] == []
    assert "Copyright" in shell.said("VBoxHeadless")
    assert "VRDE server is inactive" in shell.said("VBoxHeadless")


def test_logs_are_rotated(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --vrde off")
    for _ in range(5):
        shell("VBoxManage startvm Small --type headless")
        shell("VBoxManage controlvm Small poweroff")
    logs = shell.folder / "data/rusb/VirtualBox VMs/Small/Logs"
    names = ["VBox.log", "VBox.log.1", "VBox.log.2", "VBox.log.3"]
    assert sorted(p.name for p in logs.iterdir()) == names


DISKS = {"ide": "vdi", "sata": "vmdk", "scsi": "vhd", "virtio": "qcow2", "usb": "raw"}


@WITH_BOTH
def test_efi_firmware_and_every_bus_start(shell: Shell) -> None:
    serial = shell.folder / "serial.log"
    shell("VBoxManage createvm --name Small --register")
    shell(
        "VBoxManage modifyvm Small --memory 128 --cpus 2 --vrde off --firmware efi"
        f" --uart1 0x3F8 4 --uartmode1 file {serial}"
    )
    shell("VBoxManage modifyvm Small --usb-ohci on --usb-ehci on --usb-xhci on")
    for bus, suffix in DISKS.items():
        disk = f"{bus}.{suffix}"
        shell(f"VBoxManage createmedium --filename {disk} --size 16")
        shell(f"VBoxManage storagectl Small --name {bus} --add {bus}")
        shell(
            f"VBoxManage storageattach Small --storagectl {bus} --port 0 --device 0"
            f" --type hdd --medium {disk}"
        )
    shell("VBoxManage storagectl Small --name Floppy --add floppy")
    shell(
        "VBoxManage storageattach Small --storagectl Floppy --port 0 --device 0"
        " --type fdd --medium emptydrive"
    )
    shell("VBoxManage startvm Small --type headless")
    wait(
        lambda: serial.exists() and "BdsDxe" in serial.read_text(errors="replace"),
        "the firmware",
        lambda: serial.read_text(errors="replace"),
        60,
    )
    shell("VBoxManage controlvm Small poweroff")


def test_what_runs_does_not_depend_on_the_login(shell: Shell) -> None:
    del shell.env["RUSB_RUNTIME"]
    shell.env["RUSB_STATE"] = str(shell.folder / "state")
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32 --vrde off")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # as a login makes it
        shell.env["XDG_RUNTIME_DIR"] = folder
        shell("VBoxManage startvm Small --type headless")
        del shell.env["XDG_RUNTIME_DIR"]  # cron, su
        assert '"Small"' in shell("VBoxManage list runningvms")
        assert "is running" in shell("VBoxManage modifyvm Small --memory 64", 1)
        assert "already running" in shell("VBoxManage startvm Small --type headless", 1)
        shell("VBoxManage controlvm Small pause")
    # the last login is over, and its folder gone
    assert '"Small"' in shell("VBoxManage list runningvms")

    def is_there() -> bool:
        found = shell("VBoxManage showvminfo Small --machinereadable")
        return 'VMState="paused"' in found

    wait(is_there, "its new control socket", seconds=15)
    shell("VBoxManage controlvm Small poweroff")


def test_commands_at_once_wait_for_each_other(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    lines = [f"VBoxManage modifyvm Small --memory 10{n} --vrde off" for n in range(6)]
    lines.append("VBoxManage startvm Small --type headless")
    processes = [
        subprocess.Popen(
            shlex.split(line),
            env=shell.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in lines
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert processes[-1].returncode == 0, said
    for process, words in zip(processes, said, strict=True):
        assert (
            process.returncode == 0 or "is running" in words or "running, in" in words
        )
    assert 'VMState="running"' in shell("VBoxManage showvminfo Small --machinereadable")


@WITH_BOTH
def test_a_killed_qemu_is_a_failure(shell: Shell) -> None:
    shell("VBoxManage createvm --name Small --register")
    shell("VBoxManage modifyvm Small --memory 32")
    headless = shell.start("VBoxHeadless --startvm Small --vrde off")
    try:
        wait(lambda: "Small" in shell("VBoxManage list runningvms"), "the machine")
        info = "VBoxManage showvminfo Small --machinereadable"
        wait(lambda: 'VMState="running"' in shell(info), "its start")
        os.kill(_qemu(shell), signal.SIGKILL)
        assert headless.wait(20) == 1
    finally:
        headless.kill()
        headless.wait()
    why = "QEMU ended by itself, killed by signal 9"
    if "LIBVIRT_DEFAULT_URI" in shell.env:
        why = "the domain ended by itself; libvirt's log of it says why"
    assert why in shell.said("VBoxHeadless")
    logs = shell.folder / "data/rusb/VirtualBox VMs/Small/Logs/VBox.log"
    assert why in logs.read_text()


def _qemu(shell: Shell) -> int:
    """The process of the only QEMU of this shell's machines."""
    found = subprocess.run(
        ["pgrep", "-f", f"qemu-system-x86_64.*{shell.env['RUSB_RUNTIME']}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(found.stdout.split()[0]) if found.stdout else 0


@pytest.mark.xdist_group("libvirt")
def test_another_engine_is_kept(
    tmp_path: Path, vboxmanage: Path, libvirt: Libvirt
) -> None:
    with Shell.open(tmp_path, vboxmanage) as shell:
        shell.env["LIBVIRT_DEFAULT_URI"] = libvirt.uri
        shell("VBoxManage createvm --name Small --register")
        shell("VBoxManage modifyvm Small --memory 32 --vrde off --nic1 nat")
        start = "VBoxManage startvm Small --type headless"
        assert "choose one of qemu, libvirt" in shell(f"{start} --engine xen", 2)
        shell(f"{start} --engine libvirt")
        assert "Small" in libvirt.virsh("list", "--name")
        port = free_port()
        shell(f"VBoxManage controlvm Small natpf1 ssh,tcp,127.0.0.1,{port},,22")
        shell("VBoxManage controlvm Small setlinkstate1 off")
        shell("VBoxManage controlvm Small poweroff")
        headless = shell.start("VBoxHeadless --startvm Small --vrde off")
        info = "VBoxManage showvminfo Small --machinereadable"
        wait(lambda: 'VMState="running"' in shell(info), "its start")
        headless.kill()
        headless.wait()
        assert "Small" in libvirt.virsh("list", "--name")  # it outlives us
        shell(start)  # what was left is ended first
        shell("VBoxManage controlvm Small poweroff")
        assert "Small" not in libvirt.virsh("list", "--all", "--name")
        log = shell.folder / "data/rusb/VirtualBox VMs/Small/Logs/VBox.log"
        assert "ending the domain that a killed rusb left behind" in log.read_text()
        shell(f"{start} --engine qemu")
        assert "Small" not in libvirt.virsh("list", "--all", "--name")
