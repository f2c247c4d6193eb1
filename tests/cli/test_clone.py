"""``clonevm``: copies with disks, UUIDs and MAC addresses of their own, or nothing."""

import hashlib
import os
import re
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox import registry as registry_module
from rusb.server.vbox.registry import Registry
from tests.support.vbox import Vbox

FORMATS = {"a.vdi": "vdi", "b.vmdk": "vmdk", "c.vhd": "vpc", "d.qcow2": "qcow2"}


def qemu_img(*words: str | Path) -> str:
    command = ["qemu-img", *map(str, words)]
    done = subprocess.run(
        command, check=True, timeout=30, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def disks(vbox: Vbox) -> Vbox:
    """Lab has a disk of each format, each with something on it, and a CD."""
    content = vbox.folder / "content"
    content.write_bytes(hashlib.sha512(b"rusb").digest() * 8192 + bytes(1 << 20))
    vbox("storagectl Lab --name SATA --add sata --portcount 6")
    for port, (name, kind) in enumerate(FORMATS.items()):
        options = ("-o", "force_size=on") if kind == "vpc" else ()
        qemu_img("convert", "-f", "raw", "-O", kind, *options, content, name)
        attach(vbox, port, name)
    content.rename("e.img")
    attach(vbox, 4, "e.img")
    (vbox.folder / "cd.iso").touch()
    attach(vbox, 5, "cd.iso")
    vbox("modifyvm Lab --nic2 null --natpf1 ssh,tcp,,2222,,22 --memory 512")
    vbox("setextradata Lab GUI/Note kept")
    return vbox


def attach(vbox: Vbox, port: int, name: str) -> None:
    vbox(f"storageattach Lab --storagectl SATA --port {port} --medium {name}")


def places(vbox: Vbox, name: str) -> list[str]:
    pattern = '"SATA-[0-9]-0"="(.*)"'
    found = (re.fullmatch(pattern, line) for line in vbox.info(name))
    return [match[1] for match in found if match]


def macs(vbox: Vbox, name: str) -> list[str]:
    return [line for line in vbox.info(name) if line.startswith("macaddress")]


def test_a_copy_has_all_of_it_and_shares_nothing(disks: Vbox) -> None:
    before, addresses = disks.file(), macs(disks, "Lab")
    said = disks("clonevm Lab --register")
    assert said.startswith('Machine has been successfully cloned as "Lab Clone"\n')
    assert disks.file() == before
    home = Registry().find("Lab Clone").path.parent
    ours, theirs = places(disks, "Lab"), places(disks, "'Lab Clone'")
    suffixes = (".vdi", ".vmdk", ".vhd", ".qcow2", ".img")
    expected = [f"{home}/Lab Clone-disk{n}{s}" for n, s in enumerate(suffixes, 1)]
    assert theirs == [*expected, f"{disks.folder}/cd.iso"]
    for old, new, kind in zip(ours, theirs, [*FORMATS.values(), "raw"], strict=False):
        assert "identical" in qemu_img("compare", "-f", kind, "-F", kind, old, new)
    images = re.compile('"SATA-ImageUUID-[0-4]-0"="(.*)"')
    numbers = [
        set(images.findall("\n".join(disks.info(n)))) for n in ("Lab", "'Lab Clone'")
    ]
    assert len(numbers[0] | numbers[1]) == 10
    inside = Path(theirs[0]).read_bytes()[392:408]
    assert any(inside == bytes_of(number) for number in numbers[1])
    assert not set(macs(disks, "'Lab Clone'")) & set(addresses)
    kept = ('Forwarding(0)="ssh,tcp,,2222,,22"', "memory=512", 'nic2="null"')
    assert set(kept) <= set(disks.info("'Lab Clone'"))
    assert "Value: kept" in disks("getextradata 'Lab Clone' GUI/Note")


def bytes_of(number: str) -> bytes:
    """A UUID as a VDI has it."""
    return uuid.UUID(number).bytes_le


def test_the_settings_are_otherwise_the_same(vbox: Vbox) -> None:
    vbox.put("<Hardware>", '<!-- mine --><Hardware uuid="{1}" odd="yes">')
    vbox("clonevm Lab --name Twin --options KeepAllMACs")
    twin = (Registry().machine_folder / "Twin" / "Twin.vbox").read_text()
    number = re.compile(r'uuid="{[-0-9a-f]{36}}"')
    expected = vbox.file().replace('<Hardware uuid="{1}"', "<Hardware")
    expected = expected.replace('name="Lab"', 'name="Twin"')
    assert number.sub("", twin) == number.sub("", expected)
    assert number.findall(twin) != number.findall(expected)


def test_what_may_be_wished(disks: Vbox) -> None:
    number = "0c0a1b9e-51f1-4a3c-8d36-000000000001"
    disks(
        f"clonevm Lab --name Twin --basefolder there --uuid {number} --mode all"
        " --groups /a --options KeepNATMACs,KeepDiskNames --register"
    )
    entry = Registry().find(number)
    assert entry.path == disks.folder / "there" / "Twin" / "Twin.vbox"
    assert {p.name for p in entry.path.parent.iterdir()} == {
        *(*FORMATS, "e.img", "Twin.vbox")
    }
    first, second = zip(macs(disks, "Lab"), macs(disks, "Twin"), strict=True)
    assert first[0] == first[1]
    assert second[0] != second[1]
    assert 'groups="/a"' in disks.info("Twin")


@pytest.mark.parametrize(
    ("line", "sentence", "status"),
    [
        ("Nowhere", "could not find a registered machine named 'Nowhere'", 1),
        ("Lab --name Lab --register", "named 'Lab' is registered already", 1),
        ("Lab --name a/b", "cannot be the name of a machine", 1),
        ("Lab --name Lab", "Lab.vbox already exists", 1),
        ("Lab --options Link", "a full copy is", 1),
        ("Lab --options KeepHwUUIDs", "sees the machine's own UUID", 1),
        (
            "Lab --options Fast",
            "invalid value 'Fast' for --options; choose one of keepall",
            2,
        ),
        ("Lab --mode some", "invalid value 'some' for --mode", 2),
        ("Lab --uuid 1", "invalid value '1' for --uuid", 2),
        ("Lab --snapshot x", "rusb has no snapshots", 1),
        ("Lab --groups a", "each group must begin with /", 2),
    ],
)
def test_what_is_wrong_is_said(
    vbox: Vbox, line: str, sentence: str, status: int
) -> None:
    vbox.fails(f"clonevm {line}", sentence, status)
    assert not (Registry().machine_folder / "Lab Clone").exists()


def test_a_uuid_is_free(vbox: Vbox) -> None:
    number = Registry().find("Lab").uuid
    vbox.fails(f"clonevm Lab --uuid {number}", "is registered already", 1)


def test_a_machine_that_runs_is_not_copied(vbox: Vbox) -> None:
    with vbox.running():
        vbox.fails("clonevm Lab", "is running", 1)


def test_what_rusb_cannot_copy_is_refused(disks: Vbox) -> None:
    path = Registry().find("Lab").path
    text = path.read_text()
    for old, new, sentence in (
        ("<Hardware>", '<Snapshot name="s" uuid="{1}"/><Hardware>', "snapshots of Vir"),
        ("<Machine ", '<Machine stateFile="x.sav" ', "a saved state of VirtualBox"),
    ):
        path.write_text(text.replace(old, new))
        disks.fails("clonevm Lab", sentence, 1)
    entry = '<HardDisk uuid="[^"]*" location="[^"]*a.vdi"[^>]*>'
    path.write_text(re.sub(entry, "", text))
    disks.fails("clonevm Lab", "port 0 of 'SATA' has no image in the settings", 1)


def test_a_disk_that_cannot_be_copied_leaves_nothing(disks: Vbox) -> None:
    (disks.folder / "d.qcow2").write_bytes(b"no image")
    disks.fails("clonevm Lab --name Twin", "the copy was removed", 1)
    assert "d.qcow2" in disks.err
    assert "not in qcow2 format" in disks.err
    assert not (Registry().machine_folder / "Twin").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(SettingsError("disk full"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_copy_whose_settings_cannot_be_written_leaves_nothing(
    disks: Vbox, error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        assert (Registry().machine_folder / "Twin" / "Twin-disk5.img").exists()
        raise error

    monkeypatch.setattr(registry_module, "write_file", refuse)
    disks("clonevm Lab --name Twin --register", status)
    assert ("disk full" in disks.err) == (status == 1)
    assert not (Registry().machine_folder / "Twin").exists()
    assert [e.name for e in Registry().machines()] == ["Lab"]


def test_a_copy_that_is_terminated_leaves_nothing(
    disks: Vbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(registry_module, "write_file", end)
    try:
        with pytest.raises(SystemExit):
            disks("clonevm Lab --name Twin")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (Registry().machine_folder / "Twin").exists()


def test_a_uuid_in_either_case_names_the_same_disk(disks: Vbox) -> None:
    number = re.findall('"SATA-ImageUUID-0-0"="(.*)"', "\n".join(disks.info()))[0]
    disks.put(f'<Image uuid="{{{number}}}"', f'<Image uuid="{{{number.upper()}}}"')
    disks("clonevm Lab --register")
    assert places(disks, "'Lab Clone'")[0].endswith("/Lab Clone-disk1.vdi")


def test_what_is_there_is_not_touched(disks: Vbox) -> None:
    home = Registry().machine_folder / "Twin"
    home.mkdir(parents=True)
    (home / "Twin-disk2.vmdk").write_bytes(b"mine")
    disks.fails("clonevm Lab --name Twin", "Twin-disk2.vmdk already exists", 1)
    assert [p.name for p in home.iterdir()] == ["Twin-disk2.vmdk"]
    assert (home / "Twin-disk2.vmdk").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "kind", "option"),
    [("f.vdi", "vdi", "static=on"), ("f.vhd", "vpc", "subformat=fixed")],
)
def test_a_fixed_disk_stays_one(vbox: Vbox, name: str, kind: str, option: str) -> None:
    qemu_img("create", "-f", kind, "-o", option, name, "8M")
    vbox("storagectl Lab --name SATA --add sata")
    attach(vbox, 0, name)
    vbox("clonevm Lab --name Twin")
    copy = Registry().machine_folder / "Twin" / f"Twin-disk1{Path(name).suffix}"
    old, new = Path(name).stat().st_size, copy.stat().st_size
    assert (old, new > 8 << 20) == (new, True)


def test_without_qemu_img_it_says_so(
    disks: Vbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    disks.fails("clonevm Lab", "apt-get install qemu-utils", 1)
