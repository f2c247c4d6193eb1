"""``rusb devices``: forms of the list."""

import json

import pytest

from rusb.cli import main
from rusb.client.backends.base import LocalDevice
from rusb.client.backends.emulated import EmulatedBackend


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
        return [LocalDevice(d.key, d.info, "it is mounted at /mnt") for d in found]

    monkeypatch.setattr(EmulatedBackend, "list_devices", list_devices)
    assert main(["devices", "--backend", "emulated:loopback"]) == 0
    assert "cannot be used: it is mounted at /mnt" in capsys.readouterr().out


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
