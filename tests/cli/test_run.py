"""``rusb run``: a pyusb program is the guest of a machine."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.cli import main
from tests.support.program import RUSB, run_rusb
from tests.support.rusbserver import CHECKOUT, WITH_USB, RusbServer
from tests.support.vbox import RUNNING, Vbox

PROGRAM = """import sys, usb.core
for device in usb.core.find(find_all=True):
    print(f"{device.idVendor:04x}:{device.idProduct:04x} {device.product}")
print(sys.argv[1:])
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose devices go to pyusb programs; a client brings a keyboard."""
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    machine = WITH_USB.replace('"Kernel"', '"Programs"').replace("a703}", "a7f3}")
    server = RusbServer(tmp_path, machine, "--guest", f"pyusb:{tmp_path / 'bus'}")
    words = [*RUSB, "connect", f"127.0.0.1:{server.port}"]
    words += ["--backend", "emulated:keyboard", "--known-servers", str(tmp_path / "k")]
    try:
        server.wait_log("TCP server listening")
        client = subprocess.Popen(words, cwd=CHECKOUT)
        try:
            server.wait_log("VUSB: Attached")
            yield
        finally:
            client.terminate()
            client.wait()
    finally:
        server.stop()


def test_a_program_sees_the_devices_of_a_machine(
    served: None, program: Path, tmp_path: Path
) -> None:
    for called in ([str(program)], ["-m", "program"]):
        words = ["run", "--vm", "Programs", *called, "--vm", "x", "-m", "--help"]
        done = run_rusb(*words, cwd=tmp_path, capture_output=True)
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            "1209:0002 Keyboard",
            "['--vm', 'x', '-m', '--help']",
        ]
        assert done.returncode == 7  # its own


def test_a_directory_may_be_named(program: Path, tmp_path: Path) -> None:
    words = "run", "--dir", str(tmp_path / "none"), str(program)
    done = run_rusb(*words, cwd=CHECKOUT, capture_output=True)
    assert (done.stdout, done.returncode) == ("[]\n", 7)


def test_a_machine_that_does_not_run(vbox: Vbox) -> None:
    vbox("run --vm Lab program.py", 72)
    assert "the machine 'Lab' is not running; start it with 'rusb serve" in vbox.err


@pytest.mark.parametrize(
    ("guest", "where"), [("qemu", "qemu"), ("", "another guest"), ("vhci:", "vhci")]
)
def test_a_machine_whose_devices_go_elsewhere(
    vbox: Vbox, monkeypatch: pytest.MonkeyPatch, guest: str, where: str
) -> None:
    state = replace(RUNNING, guest=guest)
    monkeypatch.setattr("rusb.cli.run.live_state", lambda uuid: state)
    vbox("run --vm Lab program.py", 72)
    assert f"the devices of 'Lab' go to {where}, not to pyusb programs" in vbox.err


def test_one_machine_or_one_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--vm", "Lab", "--dir", "x", "program.py"])
    assert ended.value.code == 64
    assert "not allowed with argument --vm" in capsys.readouterr().err
