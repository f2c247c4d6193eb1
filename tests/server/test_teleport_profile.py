"""What is compared before a machine moves (teleport.md 5)."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import SettingsError
from rusb.server.machine.teleport import images
from rusb.server.machine.teleport.images import check_images, describe_images
from rusb.server.machine.teleport.profile import (
    Profile,
    blocked,
    differences,
    profile_of,
)
from rusb.server.vbox.editor import new_machine
from rusb.server.vbox.model import Adapter, Audio, Controller, Drive, Hardware
from rusb.server.vbox.serialport import SerialPort
from rusb.server.vbox.settings import Machine

MACHINE = Machine("Lab", version=(1, 18))

ANSWERS: dict[str, object] = {
    "query-machines": [
        {"name": "q35"},
        {"name": "pc-i440fx-7.2", "alias": "pc"},
    ],
    "query-kvm": {"enabled": False, "present": True},
    "query-cpu-model-expansion": {
        "model": {"props": {"avx2": True, "sse": True, "level": 13, "svm": False}}
    },
}


def hardware(folder: Path, **changes: Any) -> Hardware:
    disk = folder / "disk.img"
    disk.parent.mkdir(exist_ok=True)
    if not disk.exists():
        disk.write_bytes(bytes(2 << 20))
    drive = Drive(0, 0, "hdd", disk)
    given: dict[str, Any] = {
        "memory": 64,
        "controllers": (Controller("IDE", "PIIX4", 2, (drive,)),),
        "adapters": {0: Adapter(mac="0800270000aa")},
        "usb": ("XHCI",),
    }
    return Hardware(**(given | changes))


async def profile(
    found: Hardware, machine: Machine = MACHINE, **answers: object
) -> Profile:
    async def ask(
        command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        return (ANSWERS | {n.replace("_", "-"): v for n, v in answers.items()})[command]

    return await profile_of(machine, found, ask)


async def test_equal_machines_have_no_differences(tmp_path: Path) -> None:
    ours = await profile(hardware(tmp_path))
    named = replace(MACHINE, name="Other", extra_data={"a": "b"})
    assert differences(ours, await profile(hardware(tmp_path), named)) == []
    described = hardware(tmp_path, description="x", groups=("/a",))
    assert differences(ours, await profile(described)) == []


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"memory": 128}, "Memory size: 64 MB at the source, 128 MB at the target"),
    ({"cpus": 2}, "Number of CPUs: 1 at the source, 2 at the target"),
    ({"firmware": "EFI64"}, "Firmware: BIOS at the source, EFI at the target"),
    ({"acpi": False}, "ACPI: on at the source, off at the target"),
    ({"is_local_time": True}, "Clock: UTC at the source, local time at the target"),
    ({"audio": Audio("HDA")}, "Sound card: none at the source, HDA at the target"),
    (
        {"serial": SerialPort("HostPipe", "/tmp/x", is_server=True)},
        "First serial port: off at the source, on at the target",
    ),
    ({"usb": ()}, "USB controllers: XHCI at the source, none at the target"),
    (
        {"adapters": {}},
        "Network adapter 1: 82540EM, MAC 0800270000AA, NAT at the source, none at the"
        " target",
    ),
    (
        {"adapters": {0: Adapter(mac="0800270000bb")}},
        "Network adapter 1: 82540EM, MAC 0800270000AA, NAT at the source, 82540EM, MAC"
        " 0800270000BB, NAT at the target",
    ),
    (
        {"controllers": (Controller("IDE", "PIIX4", 2),)},
        "Drive ide 0 0: hdd, raw at the source, none at the target",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
async def test_each_difference_of_the_hardware_is_named(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    ours = await profile(hardware(tmp_path))
    theirs = await profile(hardware(tmp_path, **change))
    assert differences(ours, theirs) == [sentence]


async def test_all_differences_are_in_one_list(tmp_path: Path) -> None:
    ours = await profile(hardware(tmp_path))
    machine = replace(MACHINE, version=(1, 19), monitors=2)
    theirs = await profile(hardware(tmp_path, cpus=2, memory=1), machine)
    assert [line.partition(":")[0] for line in differences(ours, theirs)] == [
        *("Settings version", "Memory size", "Number of CPUs", "Monitor count"),
    ]


async def test_programs_and_processors_are_compared(tmp_path: Path) -> None:
    ours = await profile(hardware(tmp_path))
    newer = [{"name": "pc-i440fx-9.0", "alias": "pc"}]
    more = {"model": {"props": {"avx2": True, "sse": True, "avx512f": True}}}
    less = {"model": {"props": {"sse": True}}}
    kvm = {"enabled": True}
    other = await profile(hardware(tmp_path), query_machines=newer, query_kvm=kvm)
    assert differences(ours, other) == [
        "QEMU machine type: pc-i440fx-7.2 at the source, pc-i440fx-9.0 at the target",
        "QEMU accelerator: TCG at the source, KVM at the target",
    ]
    there = await profile(hardware(tmp_path), query_cpu_model_expansion=more)
    assert differences(ours, there) == []  # the target may have more
    (sentence,) = differences(
        ours, await profile(hardware(tmp_path), query_cpu_model_expansion=less)
    )
    assert sentence.endswith("does not have avx2")


@pytest.mark.parametrize("answer", [None, [], {}, {"model": 1}, [1], "x"])
async def test_odd_answers_of_qemu_do_no_harm(answer: object, tmp_path: Path) -> None:
    found = await profile(
        hardware(tmp_path),
        query_machines=answer,
        query_kvm=answer,
        query_cpu_model_expansion=answer,
    )
    assert dict(found)["QEMU machine type"] == "pc"


def test_snapshots_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "Lab.vbox"
    path.write_bytes(new_machine("Lab")[1])
    assert blocked(replace(MACHINE, path=path), "source") == []
    inside = b'<Snapshot uuid="{1}" name="before"/><Hardware>'
    path.write_bytes(path.read_bytes().replace(b"<Hardware>", inside))
    (sentence,) = blocked(replace(MACHINE, path=path), "target")
    assert "the machine at the target has snapshots (before)" in sentence


# ------------------------------------------------------------------- images ----


def test_the_same_directory_is_recognised_by_any_path(tmp_path: Path) -> None:
    ours = hardware(tmp_path / "store")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "store")
    with describe_images(ours) as found:
        assert check_images(found, hardware(tmp_path / "elsewhere")) == []
        assert len(os.listdir(tmp_path / "store")) == 2
    assert os.listdir(tmp_path / "store") == ["disk.img"]


def test_copies_are_not_taken_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PATIENCE", 0.0)
    with describe_images(hardware(tmp_path / "a")) as found:
        (sentence,) = check_images(found, hardware(tmp_path / "b"))
        assert "is another image than the source's" in sentence
        # another name in the same directory
        (tmp_path / "a" / "other.img").write_bytes(bytes(2 << 20))
        drive = Drive(0, 0, "hdd", tmp_path / "a" / "other.img")
        other = hardware(
            tmp_path / "a", controllers=(Controller("IDE", "PIIX4", 2, (drive,)),)
        )
        assert "is another image" in check_images(found, other)[0]
        # what the source says of a token is not followed anywhere
        for name in ("../a/disk.img", "", ".rusb-teleport-" + "0" * 31):
            odd = [replace(image, token=name) for image in found]
            assert "is another image" in check_images(odd, hardware(tmp_path / "a"))[0]


def test_a_token_is_no_way_to_read_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PATIENCE", 0.0)
    ours = hardware(tmp_path / "a")
    with describe_images(ours) as found:
        (tmp_path / "a" / found[0].token).unlink()
        (tmp_path / "secret").write_text(found[0].identity)
        (tmp_path / "a" / found[0].token).symlink_to(tmp_path / "secret")
        assert "is another image" in check_images(found, ours)[0]


def test_images_that_differ_otherwise(tmp_path: Path) -> None:
    with describe_images(hardware(tmp_path / "a")) as found:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "disk.img").write_bytes(bytes(1 << 20))
        (sentence,) = check_images(found, hardware(tmp_path / "b"))
        assert "2097152 bytes at the source, 1048576 at the target" in sentence
        theirs = hardware(tmp_path / "b")
        (tmp_path / "b" / "disk.img").unlink()
        assert "the target has no " in check_images(found, theirs)[0]
        dvd = Drive(0, 0, "dvd", tmp_path / "a" / "disk.img")
        there = hardware(
            tmp_path / "a", controllers=(Controller("IDE", "PIIX4", 2, (dvd,)),)
        )
        (sentence,) = check_images(found, there)
        assert "an image in a file at the source, a read-only image at" in sentence


def test_read_only_images_are_compared_by_what_is_in_them(tmp_path: Path) -> None:
    def with_disc(folder: Path, content: bytes) -> Hardware:
        folder.mkdir()
        (folder / "cd.iso").write_bytes(content)
        drive = Drive(0, 0, "dvd", folder / "cd.iso")
        empty = Drive(1, 0, "dvd")
        return Hardware(controllers=(Controller("IDE", "PIIX4", 2, (drive, empty)),))

    with describe_images(with_disc(tmp_path / "a", b"x" * 99)) as found:
        assert os.listdir(tmp_path / "a") == ["cd.iso"]
        assert check_images(found, with_disc(tmp_path / "b", b"x" * 99)) == []
        (sentence,) = check_images(found, with_disc(tmp_path / "c", b"y" * 99))
        assert "is another image" in sentence


def test_where_nothing_can_be_written_the_source_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = hardware(tmp_path)
    monkeypatch.setattr(images, "PREFIX", "nowhere/")  # also where root runs the test
    with (
        pytest.raises(SettingsError, match="has to create a file beside it"),
        describe_images(ours),
    ):
        pass
    assert os.listdir(tmp_path) == ["disk.img"]
