"""What the tables of docs/guide/vboxmanage.md say of running machines, run."""

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.cli.test_vboxmanage_guide import (
    EXAMPLES,
    GUIDE,
    NEEDS_RUNNING,
    STARTS,
    Row,
    code,
)
from tests.lab.peers import wait
from tests.lab.vboxshell import Shell

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lab_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The machine that the guide's first commands make, with an xHCI besides."""
    with Shell.open(tmp_path_factory.mktemp("lab")) as shell:
        block = GUIDE.read_text().partition("```sh\n")[2].partition("```")[0]
        for line in block.splitlines():
            shell(line)
        shell("VBoxManage modifyvm Lab --memory 32 --usbxhci on")
        yield shell


def state(shell: Shell) -> str:
    return shell("VBoxManage showvminfo Lab --machinereadable")


def test_the_words_of_controlvm(lab_machine: Shell) -> None:
    shell = lab_machine
    shell("VBoxManage startvm Lab --type vrdp")
    rows = [row for row in EXAMPLES if row.cells[3].startswith(NEEDS_RUNNING)]
    assert len(rows) > 12
    (address,) = re.findall(r"Address: +(\S+)", shell("VBoxManage list usbhost"))
    for row in rows:
        _, example, status, then = row.cells
        said = shell(code(example)[0].replace("001/002", address))
        assert ("is deprecated" in said) == ("with a warning" in status)
        after = state(shell)
        gone = re.findall(r"~~`([^`]+)`~~", then)
        for text in code(then):
            assert (text in after) == (text not in gone), (row, after)


@pytest.mark.parametrize("row", [r for r in EXAMPLES if r.cells[3] == STARTS], ids=str)
def test_what_starts_a_machine(row: Row, lab_machine: Shell) -> None:
    _, example, status, _ = row.cells
    shell = lab_machine
    (line,) = code(example)
    if shlex.split(line)[0] == "VBoxManage":
        said = shell(line)
    else:
        process = shell.start(line)
        wait(lambda: 'VMState="running"' in state(shell), "the machine")
        said = shell.said("VBoxHeadless")
    assert ("is deprecated" in said) == ("with a warning" in status)
    after = state(shell)
    assert 'VMState="running"' in after
    assert ('vrde="off"' in after) == (" off" in line)
    for port in re.findall(r"5000", line):
        assert f"vrdeport={port}" in after
    for address in re.findall(r"127\.0\.0\.1", line):
        assert f'vrdeaddress="{address}"' in after
    shell("VBoxManage controlvm Lab poweroff")
    if shlex.split(line)[0] != "VBoxManage":
        assert process.wait(20) == 0
