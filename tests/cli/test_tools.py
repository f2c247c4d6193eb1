"""Lines that Packer 1.6 and docker-machine give VBoxManage, in their order.

Packer's are from a run of it, to its end, against this program; docker-machine's have
the form of its VirtualBox driver.
"""

from pathlib import Path

import pytest

from tests.support.vbox import Vbox, fake_qemu_img

PACKER = """
setextradata global GUI/RegistrationData triesLeft=0
setextradata global GUI/UpdateDate '1 d, 2027-01-01, stable'
createvm --name packed --ostype Debian_64 --register
modifyvm packed --boot1 disk --boot2 dvd --boot3 none --boot4 none
modifyvm packed --cpus 1
modifyvm packed --memory 512
modifyvm packed --usb off
modifyvm packed --audio none
createhd --filename packed.vdi --size 64 --format VDI --variant Standard
storagectl packed --name 'IDE Controller' --add ide
storagectl packed --name 'SATA Controller' --add sata --portcount 1
storageattach packed --storagectl 'SATA Controller' --port 0 --device 0 --type hdd \
 --medium packed.vdi --nonrotational off --discard off
storageattach packed --storagectl 'IDE Controller' --port 0 --device 1 \
 --type dvddrive --medium cd.iso
modifyvm packed --vrdeaddress 127.0.0.1 --vrdeauthtype null --vrde on --vrdeport 5943
modifyvm packed --natpf1 packercomm,tcp,127.0.0.1,3213,,22
list systemproperties
showvminfo packed --machinereadable
storageattach packed --storagectl 'IDE Controller' --port 0 --device 1 \
 --type dvddrive --medium none
modifyvm packed --natpf1 delete packercomm
unregistervm packed --delete
"""

DOCKER_MACHINE = """
list hostonlyifs
createvm --basefolder here --name box --register
modifyvm box --firmware bios --bioslogofadein off --bioslogofadeout off \
 --bioslogodisplaytime 0 --biosbootmenu disabled --ostype Linux26_64 --cpus 1 \
 --memory 1024 --acpi on --ioapic on --rtcuseutc on --natdnshostresolver1 off \
 --natdnsproxy1 on --cpuhotplug off --pae on --hpet on --hwvirtex on \
 --nestedpaging on --largepages on --vtxvpid on --accelerate3d off --boot1 dvd
modifyvm box --nic1 nat --nictype1 82540EM --cableconnected1 on
storagectl box --name SATA --add sata --hostiocache on
storageattach box --storagectl SATA --port 0 --device 0 --type dvddrive --medium cd.iso
guestproperty set box /VirtualBox/GuestAdd/SharedFolders/MountPrefix /
guestproperty set box /VirtualBox/GuestAdd/SharedFolders/MountDir /
showvminfo box --machinereadable
modifyvm box --natpf1 ssh,tcp,127.0.0.1,3213,,22
list dhcpservers
modifyvm box --natpf1 delete ssh
unregistervm box --delete
"""


@pytest.mark.parametrize("lines", [PACKER, DOCKER_MACHINE], ids=["packer", "docker"])
def test_each_line_works(
    lines: str, empty: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu_img(tmp_path / "bin", monkeypatch)
    Path("cd.iso").touch()
    for line in lines.strip().splitlines():
        empty(line)
        assert empty.err == "", line
    assert empty("list vms") == ""


def test_where_docker_machine_ends(empty: Vbox) -> None:
    empty.fails("hostonlyif create", "hostonlyif: NAT is the only network", 1)
