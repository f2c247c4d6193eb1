"""``rusb devices``: forms of the list."""

import json

import pytest

from rusb.cli import main
from rusb.cli._status import exit_status
from rusb.client.backends.emulated import EmulatedBackend
from rusb.errors import DeviceBusy
from rusb.usb.backend import LocalDevice


def test_the_list_looks_like_lsusb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--backend", "emulated:flash-drive,keyboard"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ID 1209:0001 rusb Flash Drive" in lines[0]
    assert lines[0].startswith("Bus ")
    assert "High speed" in lines[1]
    assert "ID 1209:0002 rusb Keyboard" in lines[2]


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json", "--backend", "emulated:loopback"]) == 0
    (device,) = json.loads(capsys.readouterr().out)
    assert (device["vendor_id"], device["product_id"]) == (0x1209, 4)
    assert device["speed"] == "high"
    assert device["problem"] is None
    assert device["key"]


def test_a_device_that_cannot_be_used_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = EmulatedBackend.list_devices

    async def list_devices(self: EmulatedBackend) -> list[LocalDevice]:
        found = await plain(self)
        problem = DeviceBusy("it is mounted at /mnt/no permission")
        return [LocalDevice(d.key, d.info, problem) for d in found]

    monkeypatch.setattr(EmulatedBackend, "list_devices", list_devices)
    assert main(["devices", "--backend", "emulated:loopback"]) == 0
    said = "cannot be used: it is mounted at /mnt/no permission\n"
    assert said in capsys.readouterr().out
    # and no word of a path is taken for the reason
    command = ["connect", "--backend", "emulated:loopback", "127.0.0.1:1"]
    assert main(command) == exit_status(DeviceBusy())
    assert "mounted at /mnt/no permission" in capsys.readouterr().err


def test_a_machine_without_usb_has_an_empty_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def list_devices(self: EmulatedBackend) -> list[LocalDevice]:
        return []

    monkeypatch.setattr(EmulatedBackend, "list_devices", list_devices)
    assert main(["devices", "--backend", "emulated:loopback"]) == 0
    assert "No USB devices" in capsys.readouterr().out


def test_an_unknown_backend_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--backend", "nowhere"]) == 64
    assert "nowhere" in capsys.readouterr().err
