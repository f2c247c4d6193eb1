"""The libusb backend on simulated USB: unmodified libusb, simulated usbfs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends._journal import Journal
from rusb.client.backends._sysfs import Sysfs, udev_rule
from rusb.client.backends.libusb import LibusbBackend
from rusb.errors import DeviceBusy
from rusb.usb.device import DeviceInfo

ROOT = Path(__file__).resolve().parents[2]
FAKEUSB = ROOT / "tools" / "fakeusb"

pytestmark = pytest.mark.skipif(
    os.getuid() != 0, reason="simulated USB needs root for a mount namespace of its own"
)


@pytest.fixture(scope="module")
def fakeusb() -> Path:
    subprocess.run(["make", "-s", "-C", FAKEUSB], check=True, capture_output=True)
    return FAKEUSB / "fakeusb-run"


def play(
    fakeusb: Path, folder: Path, scenario: str, name: str = "libusb_program.py"
) -> list[dict[str, Any]]:
    """Run a scenario of a program of tests/support and return what it said."""
    program = ROOT / "tests" / "support" / name
    command = [fakeusb, "-r", folder / "usb", sys.executable, program, scenario]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # its python3 is ours
    done = subprocess.run(
        [*map(str, command), str(folder / "state")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said.pop() == {"tasks_left": 0}
    return said


def test_everything_but_hubs_is_listed_with_its_identity(
    fakeusb: Path, tmp_path: Path
) -> None:
    disk, mouse, two = play(fakeusb, tmp_path, "listing")
    assert disk == {
        "key": "1-1@2",
        "text": "1209:0001 FakeUSB Disk and Loopback",
        "speed": "HIGH",
        "port": 1,
        "path": [1],
        "bus": 1,
        "usb": 0x0200,
        "revision": 0x0123,
        "serial": "FU0001",
        "problem": None,
    }
    assert (mouse["text"], mouse["speed"]) == ("1209:0002 FakeUSB Mouse", "FULL")
    assert (two["path"], two["port"]) == ([1, 4], 4)


@pytest.mark.parametrize("how", ["short-ep", "zeros"])
def test_t33_what_libusb_cannot_parse_is_listed_all_the_same(
    fakeusb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("FAKEUSB_BREAK", how)
    found = play(fakeusb, tmp_path, "listing")
    assert [d["text"][:9] for d in found] == ["1209:0001", "1209:0002", "1209:0003"]


def test_all_four_transfer_types_move_data(fakeusb: Path, tmp_path: Path) -> None:
    found = {s.pop("what"): s for s in play(fakeusb, tmp_path, "transfers")}
    assert found["control"]["data"].startswith("1201000200000040091201002301")
    assert found["out"] == {"status": "OK", "length": 700}
    assert found["short"] == {"status": "OK", "length": 700}
    assert found["interrupt"] == {"status": "OK", "length": 8}
    assert found["iso in"]["packets"] == [192] * 8
    assert found["iso in"]["length"] == 192 * 8
    assert found["iso out"] == {"status": "OK", "length": 192 * 4}


def test_a_stall_is_a_result_and_clears(fakeusb: Path, tmp_path: Path) -> None:
    assert play(fakeusb, tmp_path, "stall") == [
        {"status": "STALL"},
        {"status": "STALL"},
        {"status": "OK", "data": "again"},
    ]


def test_requests_that_change_the_device_go_through_the_kernel(
    fakeusb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKEUSB_LOG", str(tmp_path / "log"))
    assert play(fakeusb, tmp_path, "requests") == [{"status": "OK"}] * 3
    log = (tmp_path / "log").read_text()
    assert "1-1 SETINTERFACE if=1 alt=1 = 0" in log
    assert "1-1 CLEAR_HALT 0x83 = 0" in log
    assert "type=2" not in log  # none of them went to the device itself


def test_a_device_is_closed_behind_the_request_that_blocks(
    fakeusb: Path, tmp_path: Path
) -> None:
    (closed,) = play(fakeusb, tmp_path, "closing")
    assert closed["said"] == ["begin 1", "end 1", "release"]
    assert closed["told"] == dict.fromkeys("123", ["NO_DEVICE"])


def test_a_packet_larger_than_the_buffer_is_an_overflow(
    fakeusb: Path, tmp_path: Path
) -> None:
    assert play(fakeusb, tmp_path, "overflow") == [{"status": "OVERFLOW"}]


def test_cancelled_urbs_complete_once_each_and_the_endpoint_goes_on(
    fakeusb: Path, tmp_path: Path
) -> None:
    (said,) = play(fakeusb, tmp_path, "cancel")
    cancelled = {str(n): ["CANCELLED"] for n in range(1, 9)}
    assert said["told"] == cancelled | {"9": ["OK"], "10": ["OK"]}
    assert said["data"] == "ok"


def test_what_arrived_before_a_cancel_is_not_lost(
    fakeusb: Path, tmp_path: Path
) -> None:
    (said,) = play(fakeusb, tmp_path, "keeps")
    assert said == {"status": "CANCELLED", "length": 512, "data": 512}


def test_transfers_are_used_again_and_results_keep_their_data(
    fakeusb: Path, tmp_path: Path
) -> None:
    used, closed = play(fakeusb, tmp_path, "again")
    # one for each endpoint and direction of control transfers
    assert used == {"bulk": True, "control": True, "made": 4}
    assert 0 < closed["spare"] <= closed["limit"]
    assert closed["left"] == 0


def test_transfers_wait_for_the_memory_that_usbfs_lends(
    fakeusb: Path, tmp_path: Path
) -> None:
    """B: a client waits at 16 MiB; it failed with ENOMEM."""
    said, end = play(fakeusb, tmp_path, "memory")
    assert said["failed"] == []
    assert said["control"] == "OK"
    assert said["order"] == [f"{n:05}" for n in range(1, 25)]
    assert said["cancelled"] == ["CANCELLED", "CANCELLED"]
    assert end == {"once": True}


def test_a_transfer_of_more_than_usbfs_lends_goes_in_pieces(
    fakeusb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKEUSB_MEMORY_MB", "1")
    said, cancelled = play(fakeusb, tmp_path, "large")
    assert said["told"] == {str(n): ["OK"] for n in range(1, 6)}
    assert (said["same"], said["after"], said["control"]) == (True, "after", "OK")
    assert cancelled == {"status": "CANCELLED", "kept": True}


def test_devices_v_names_what_usbfs_lends(fakeusb: Path, tmp_path: Path) -> None:
    command = [fakeusb, "-r", tmp_path / "usb", sys.executable, "-m", "rusb", "devices"]
    for options, count in (["-v"], 1), ([], 0):
        said = subprocess.run(
            [*map(str, command), *options],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        line = (
            "Limit: usbfs lends 16 MiB to the transfers of all programs"
            " (usbfs_memory_mb);"
        )
        assert said.count(line) == count
        assert "FakeUSB Disk and Loopback" in said


def test_a_full_disk_keeps_nobody_from_a_device(fakeusb: Path, tmp_path: Path) -> None:
    (said,) = play(fakeusb, tmp_path, "full_disk")
    assert (said["status"], said["bound"]) == ("OK", True)
    assert "/state/detached: No space left on device: if rusb" in said["said"][0]


def test_the_mouse_of_this_machine_is_kept_and_isochronous_devices_are_known(
    fakeusb: Path, tmp_path: Path
) -> None:
    disk, mouse, two = play(fakeusb, tmp_path, "kept")
    assert (disk["kept"], disk["isochronous"]) == (None, True)
    assert mouse["kept"] == "it is a keyboard or mouse of this machine"
    assert (two["kept"], two["isochronous"]) == (None, False)


def test_an_unplug_completes_every_urb_once(fakeusb: Path, tmp_path: Path) -> None:
    (said,) = play(fakeusb, tmp_path, "unplug")
    assert said["told"] == {str(n): ["NO_DEVICE"] for n in range(1, 10)}
    assert said["late"] == "NO_DEVICE"


def test_a_new_device_waits_for_udev(fakeusb: Path, tmp_path: Path) -> None:
    """Offered at once, the server would ask for it before its user may open it."""
    assert play(fakeusb, tmp_path, "late_rights") == [
        {"there_before": "denied"},
        {"early": "nothing", "then": "usable"},
        {"early": "nothing", "never": "denied"},
        {"looks": 3 + 4},
    ]


def test_the_kernel_driver_goes_with_the_claim_and_comes_back(
    fakeusb: Path, tmp_path: Path
) -> None:
    (said,) = play(fakeusb, tmp_path, "drivers")
    assert (said["before"], said["claimed"], said["after"]) == (True, False, True)
    assert json.loads(said["noted"])["driver"] == "usb-storage"
    assert said["left"] == ""


def test_another_configuration_is_selected_and_survives_a_reset(
    fakeusb: Path, tmp_path: Path
) -> None:
    first, second = play(fakeusb, tmp_path, "configurations")
    assert first == {"configuration": 2, "data": "two"}
    assert second == {"configuration": 2}


def test_what_does_not_exist_is_an_error_not_a_crash(
    fakeusb: Path, tmp_path: Path
) -> None:
    refused, urb = play(fakeusb, tmp_path, "busy")
    assert "claiming interface 7 of device 1-1" in refused["error"]
    assert urb["status"] in ("INVALID", "IO_ERROR")


# ------------------------------------------------- the whole client, over TLS ----


def play_path(fakeusb: Path, folder: Path, scenario: str) -> dict[str, Any]:
    (said,) = play(fakeusb, folder, scenario, "path_program.py")
    return said


def test_the_guest_reaches_the_device_through_the_client(
    fakeusb: Path, tmp_path: Path
) -> None:
    said = play_path(fakeusb, tmp_path, "transfers")
    assert said["out"] == ["OK", 700]
    assert said["back"] == ["OK", 700]
    assert said["interrupt"] == ["OK", 8]
    assert said["iso"] == "INVALID"  # vrdpusb carries no isochronous transfers
    assert said["strings"]["product"] == "Disk and Loopback"


def test_a_stall_travels_to_the_guest_and_clears(fakeusb: Path, tmp_path: Path) -> None:
    said = play_path(fakeusb, tmp_path, "stall")
    assert said["status"] == ["STALL", "STALL", "OK"]


def test_an_overflow_travels_to_the_guest(fakeusb: Path, tmp_path: Path) -> None:
    assert play_path(fakeusb, tmp_path, "overflow")["status"] == "OVERFLOW"


def test_urbs_the_guest_cancels_complete_once_each(
    fakeusb: Path, tmp_path: Path
) -> None:
    said = play_path(fakeusb, tmp_path, "cancel")
    assert said["results"] == {str(n): ["CANCELLED"] for n in range(8)}
    assert said["data"] == "ok"


def test_urbs_in_flight_at_an_unplug_complete_once_each(
    fakeusb: Path, tmp_path: Path
) -> None:
    results = play_path(fakeusb, tmp_path, "unplug")["results"]
    assert sorted(results) == [str(n) for n in range(8)]
    assert all(r in (["NO_DEVICE"], ["CANCELLED"]) for r in results.values())


def test_without_permission_the_rule_is_printed_and_the_status_is_77(
    fakeusb: Path, tmp_path: Path
) -> None:
    # others may not be able to look into the folder of this checkout
    python = sys.executable.replace(f"{ROOT}/", "/mnt/")
    rusb = f"{python} -m rusb connect 127.0.0.1:1"
    script = (
        "chmod 600 /dev/bus/usb/*/*; chmod 755 /dev/bus/usb /dev/bus/usb/*;"
        f'mount --bind "{ROOT}" /mnt;'
        f'export LD_PRELOAD=${{LD_PRELOAD//"{ROOT}"//mnt}};'
        f"exec setpriv --reuid 65534 --regid 65534 --clear-groups {rusb}"
    )
    done = subprocess.run(
        [str(fakeusb), "-r", str(tmp_path / "usb"), "bash", "-c", script],
        env={**os.environ, "PYTHONPATH": "/mnt", "RUSB_STATE": "/tmp/rusb-nobody"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 77, done.stderr
    assert "1209:0001 FakeUSB Disk and Loopback: no permission for" in done.stderr
    assert 'ATTR{idVendor}=="1209", ATTR{idProduct}=="0001"' in done.stderr


# ------------------------------------------------------ sysfs and the journal ----


def fake_sysfs(folder: Path, driver: str | None = "usb-storage") -> Sysfs:
    """Make a sysfs with the disk 1-1, whose partition is device 8:1."""
    interface = folder / "devices" / "1-1:1.0"
    block = interface / "host0" / "block" / "sda"
    (block / "sda1").mkdir(parents=True)
    (block / "dev").write_text("8:0\n")
    (block / "sda1" / "dev").write_text("8:1\n")
    (folder / "devices" / "1-1").mkdir()
    (folder / "devices" / "1-1" / "devnum").write_text("2\n")
    (folder / "drivers" / "usb-storage").mkdir(parents=True)
    if driver:
        (interface / "driver").symlink_to(folder / "drivers" / driver)
    (folder / "mountinfo").write_text("")
    (folder / "swaps").write_text("Filename Type\n")
    return Sysfs(
        folder / "devices",
        folder / "drivers",
        folder / "mountinfo",
        folder / "swaps",
        folder / "nodes",
    )


def test_a_mounted_partition_is_found_and_named(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path)
    assert sysfs.in_use("1-1") is None
    sysfs.mounts.write_text("36 1 8:1 / /media/my\\040stick rw - vfat /dev/sda1 rw\n")
    in_use = "/dev/sda1 is mounted at /media/my stick: unmount it first"
    assert sysfs.in_use("1-1") == in_use
    assert sysfs.in_use("1-2") is None


def test_a_folder_named_no_permission_is_none(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path)
    sysfs.mounts.write_text("36 1 8:1 / /mnt/no\\040permission rw - vfat x rw\n")
    problem = LibusbBackend(sysfs=sysfs)._problem("1-1", DeviceInfo(0, 0x1209, 1))
    assert isinstance(problem, DeviceBusy)
    assert str(problem).startswith("/dev/sda1 is mounted at /mnt/no permission: unmo")


def test_a_swap_area_is_in_use_too(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path)
    sysfs.swaps.write_text("Filename Type\n/dev/sda1 partition 1 0 -2\n")
    in_use = "/dev/sda1 is a swap area: run swapoff /dev/sda1 first"
    assert sysfs.in_use("1-1") == in_use


def test_the_udev_rule_names_the_device() -> None:
    rule = udev_rule(0x1209, 0x0001)
    assert 'ATTR{idVendor}=="1209", ATTR{idProduct}=="0001"' in rule
    assert "udevadm control --reload" in rule


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_dead_clients_driver_is_bound_again(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path, driver=None)
    path = tmp_path / "detached"
    journal = Journal(path, sysfs)
    journal.add("1-1", 2, 0, "usb-storage")
    assert journal.recover() == []  # this process lives
    (entry,) = entries(path)
    path.write_text(json.dumps(entry | {"start": "1"}) + "\n")
    (said,) = journal.recover()
    assert "given back to usb-storage" in said
    assert (tmp_path / "drivers/usb-storage/bind").read_text() == "1-1:1.0"
    assert entries(path) == []


def test_another_device_in_the_same_port_is_left_alone(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path, driver=None)
    path = tmp_path / "detached"
    journal = Journal(path, sysfs)
    journal.add("1-1", 9, 0, "usb-storage")
    (entry,) = entries(path)
    path.write_text(json.dumps(entry | {"pid": 4194305}) + "\nnot JSON\n")
    assert journal.recover() == []
    assert not (tmp_path / "drivers/usb-storage/bind").exists()
    assert entries(path) == []


def test_what_was_given_back_is_struck_out(tmp_path: Path) -> None:
    path = tmp_path / "detached"
    journal = Journal(path, fake_sysfs(tmp_path))
    journal.add("1-1", 2, 0, "usb-storage")
    journal.add("1-1", 2, 1, "usbhid")
    journal.remove("1-1", 0)
    assert [e["interface"] for e in entries(path)] == [1]


BAD_LINES = [
    '{"device":5,"address":2,"interface":0,"driver":"x","pid":1,"start":"0"}',
    '{"device":"1-1","address":2,"interface":0,"driver":"x","pid":[1],"start":"0"}',
    '{"device":"1-1","address":2,"interface":0,"driver":5,"pid":9999,"start":"0"}',
    '{"device":"1-1","address":2,"interface":0,"driver":"../x","pid":9999,"start":"0"}',
    '{"device":"../..","address":2,"interface":0,"driver":"x","pid":9999,"start":"0"}',
    '{"device":"\\u0000","address":2,"interface":0,"driver":"x","pid":9999,"start":"0"}',
    '{"device":"1-1*[","address":2,"interface":0,"driver":"x","pid":99,"start":"0"}',
    '{"device":"1-1","address":2,"interface":true,"driver":"x","pid":99,"start":"0"}',
    '{"device":"1-1","address":2,"interface":0,"driver":"x","pid":99,"start":[]}',
    "[" * 100_000,
    "7",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:48])
def test_journals_of_other_types_are_passed_over(line: str, tmp_path: Path) -> None:
    """C1: what is no entry of ours harms neither the start nor other entries."""
    path = tmp_path / "detached"
    good = {"device": "1-1", "address": 2, "interface": 0, "driver": "usb-storage"}
    good |= {"pid": 4194305, "start": "1"}
    path.write_text(f"{line}\n{json.dumps(good)}\n")
    sysfs = fake_sysfs(tmp_path, driver=None)
    (said,) = Journal(path, sysfs).recover()
    assert "given back to usb-storage" in said


def test_a_disk_that_is_pulled_out_while_sysfs_is_read(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path)
    number = sysfs.devices / "1-1:1.0/host0/block/sda/dev"
    number.unlink()
    number.symlink_to("/nonexistent/gone")
    sysfs.mounts.write_text("36 1 8:1 / /media rw - vfat /dev/sda1 rw\n")
    assert sysfs.in_use("1-1") == "/dev/sda1 is mounted at /media: unmount it first"


def test_a_simulation_that_was_not_built_runs_nothing(tmp_path: Path) -> None:
    for name in ("fakeusb-run", "mktree.py"):
        shutil.copy(FAKEUSB / name, tmp_path)
    words = tmp_path / "fakeusb-run", "-r", tmp_path / "usb", "echo", "run"
    command = list(map(str, words))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} is not built: make -C {tmp_path}" in done.stderr
