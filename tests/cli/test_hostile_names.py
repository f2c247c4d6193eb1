"""What a device calls itself, wherever it is shown (bad-inputs T42): escaped, cut."""

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rusb.cli import devices as devices_command
from rusb.cli import main
from rusb.cli._common import say, set_up_logging
from rusb.client.backends._sysfs import Sysfs
from rusb.errors import DeviceGone
from rusb.server.display.status import status_frame
from rusb.server.state import DeviceState, MachineState
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import MAX_NAME, DeviceInfo
from tests.support.vbox import RUNNING, Vbox

SHELL = "$(touch pwned) `touch pwned` '; touch pwned;"
NAME = f'St"ick\x1b]0;owned\x07\r\nroot: ok\u202e\u2028\x9b2J {SHELL}'
SHOWN = f'St"ick]0;ownedroot: ok2J {SHELL}'
ENDLESS = "A" * 100_000
INFO = DeviceInfo(0, 0x1209, 0x0042, manufacturer=NAME, product=NAME, serial=ENDLESS)


def is_fit(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text) and ENDLESS not in text


def test_whoever_makes_it_a_device_has_clean_names() -> None:
    assert INFO.manufacturer == INFO.product == SHOWN
    assert INFO.serial == "A" * MAX_NAME
    assert DeviceInfo(0, 1, 2).product is None


def test_what_sysfs_says(tmp_path: Path) -> None:
    (tmp_path / "1-1").mkdir()
    (tmp_path / "1-1" / "product").write_bytes(NAME.encode() + b"\xff\n")
    text = Sysfs(devices=tmp_path).text("1-1", "product")
    assert text == SHOWN + "?"


class Hostile(DeviceBackend):
    """Has a device with such a name."""

    async def open(self, device: LocalDevice) -> OpenDevice:
        raise DeviceGone("it is not there")

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def list_devices(self) -> list[LocalDevice]:
        return [LocalDevice("1-1", INFO)]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_the_list_of_devices(
    option: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices_command, "load_backend", lambda *_, **__: Hostile())
    assert main(["devices", *option]) == 0
    out = capsys.readouterr().out
    assert is_fit(out)
    if option:
        (found,) = json.loads(out)
        assert found["product"] == SHOWN
    else:
        assert f" ID 1209:0042 {SHOWN} {SHOWN}\n" in out


def test_what_is_said_and_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(f"offering {NAME}\n  and more")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    set_up_logging(0)
    logging.getLogger("rusb.test").warning("refused: %s", NAME)
    first, _, rest = capsys.readouterr().err.partition("  and more\n")
    assert is_fit(first + rest)
    assert "ick]0;owned" in first
    assert "W rusb.test: refused: St" in rest


def test_what_an_error_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> DeviceBackend:
        raise DeviceGone(f"{NAME} is gone")

    monkeypatch.setattr(devices_command, "load_backend", fail)
    assert main(["devices"]) == 74
    assert is_fit(capsys.readouterr().err)


def test_the_status_screen() -> None:
    frame = status_frame(640, 480, NAME, [str(INFO), ENDLESS])
    assert frame.shape == (512, 640)


# ------------------------------------------------------- the running machine ----


def with_device(**texts: str) -> MachineState:
    """A running machine; a device of a client has texts that nobody has cleaned."""
    given: dict[str, Any] = {"uuid": "u", "address": "1", **texts}
    device = DeviceState(**given, vendor_id=1, product_id=2, revision=3, client=1)
    return replace(RUNNING, devices=(device,))


def test_showvminfo(vbox: Vbox) -> None:
    state = with_device(manufacturer=NAME, product=NAME, address=NAME)
    with vbox.running(state=state):
        for form in ("", "--machinereadable", "--json"):
            assert is_fit(vbox(f"showvminfo Lab {form}"))
        machine = vbox("showvminfo Lab --machinereadable")
        escaped = SHOWN.replace('"', '\\"')
        assert f'="{escaped}"\n' in machine


def test_the_advice_is_safe_to_copy(vbox: Vbox, tmp_path: Path) -> None:
    """A shell that runs it calls rusb, and nothing that the name says."""
    vbox("modifyvm Lab --usb-xhci on")
    with vbox.running(state=with_device(product=NAME)):
        out = vbox("usbfilter explain Lab")
    assert is_fit(out)
    lines = [line.strip() for line in out.splitlines()]
    (line,) = [
        one for one in lines if one.startswith("rusb usbfilter add") and "owned" in one
    ]
    assert shlex.split(line)[shlex.split(line).index("--name") + 1] == SHOWN
    code = f"rusb() {{ :; }}\n{line}\n"
    subprocess.run(["bash", "-euc", code], cwd=tmp_path, check=True, timeout=30)
    assert not (tmp_path / "pwned").exists()


def test_completion_runs_nothing_of_ours() -> None:
    """Names of devices and machines are not completed: shells expand what they get."""
    folder = Path(__file__).resolve().parents[2] / "contrib" / "completion"
    for path in (p for p in folder.rglob("*") if p.is_file()):
        text = path.read_text("utf-8")
        assert not any(
            f"$({word}" in text for word in ("rusb", "VBoxManage", sys.executable)
        )
        assert "_shtab_cmd_compgen" not in text


@pytest.mark.parametrize("option", ["", " --machinereadable"])
def test_whatever_a_settings_file_says(option: str, vbox: Vbox) -> None:
    """It may come from anybody, and XML allows characters that terminals obey."""
    vbox("modifyvm Lab --vrde on --description d --vrdeaddress a")
    vbox("modifyvm Lab --vrdeproperty Audio/LogPath=p")
    vbox("usbfilter add 0 --target Lab --name f")
    for word in ('description="d"', 'name="f"', 'value="a"', 'value="p"'):
        name, _, value = word.partition("=")
        text = f"{value[1]}\x9b31m\u202e"
        if name == "description":
            vbox.put("<Description>d<", f"<Description>{text}\r\n1<")
        else:
            vbox.put(word, f'{name}="{text}"')
    shown = vbox(f"showvminfo Lab{option}")
    assert is_fit(shown)
    for letter in "dfap":
        assert f"{letter}31m" in shown
