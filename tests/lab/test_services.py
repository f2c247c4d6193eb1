"""A service manager starts a machine: what it gets to read (sd_notify(3))."""

import contextlib
import signal
import tempfile
from pathlib import Path

import pytest

from tests.support.lab.vboxshell import Shell
from tests.support.notify import Manager

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_headless_and_startvm_say_when_the_machine_runs(
    tmp_path: Path, vboxmanage: Path
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Shell.open(tmp_path, vboxmanage) as shell,
    ):
        manager = Manager(f"{folder}/notify")
        shell.env["NOTIFY_SOCKET"] = f"{folder}/notify"
        ready = ["READY=1", "STATUS=the machine 'Lab' is running"]
        with contextlib.closing(manager.socket):
            shell("VBoxManage createvm --name Lab --register")
            machine = shell.start("VBoxHeadless --startvm Lab --vrde off")
            assert manager.read() == ready
            machine.send_signal(signal.SIGTERM)
            assert manager.read() == ["STOPPING=1"]
            assert machine.wait(60) == 0
            shell("VBoxManage startvm Lab --type headless")
            assert manager.read() == ready
            shell("VBoxManage controlvm Lab poweroff")
