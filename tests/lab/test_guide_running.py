"""What the tables of docs/guide/vboxmanage.md say of running machines, run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.peers import wait
from tests.support.lab.vboxshell import Shell
from tests.support.rusbserver import free_ports
from tests.support.vboxmanage_guide import (
    EXAMPLES,
    GUIDE,
    NEEDS_RUNNING,
    STARTS,
    Row,
    code,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("guide"),
]


SOUND = '<AudioAdapter driver="Pulse" enabled="true" enabledIn="true"/>'


@pytest.fixture(scope="module")
def prepared(
    vboxmanage: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """The machine that the guide's first commands make, with an xHCI besides."""
    with Shell.open(tmp_path_factory.mktemp("lab"), vboxmanage) as shell:
        block = GUIDE.read_text().partition("```sh\n")[2].partition("```")[0]
        for line in block.splitlines():
            shell(line)
        shell("VBoxManage modifyvm Lab --memory 32 --usbxhci on")
        (path,) = re.findall('CfgFile="(.*)"', state(shell))
        text = Path(path).read_text().replace("<BIOS>", f"{SOUND}<BIOS>")
        Path(path).write_text(text)
        yield shell


@pytest.fixture
def lab_machine(prepared: Shell) -> Iterator[Shell]:
    """It is off before and after each test."""
    yield prepared
    prepared.power_off()


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """Free ports in place of the guide's, which others may have."""
    first = free_ports(4)
    found = map(str, range(first, first + 4))
    return dict(zip(("5000", "5001", "5002", "3389"), found, strict=True))


def replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def state(shell: Shell) -> str:
    return shell("VBoxManage showvminfo Lab --machinereadable")


def test_the_words_of_controlvm(lab_machine: Shell, ports: dict[str, str]) -> None:
    shell = lab_machine
    shell(f"VBoxManage modifyvm Lab --vrdeport {ports['3389']}")
    shell("VBoxManage startvm Lab --type vrdp")
    rows = [row for row in EXAMPLES if row.cells[3].startswith(NEEDS_RUNNING)]
    assert len(rows) > 12
    (address,) = re.findall(r"Address: +(\S+)", shell("VBoxManage list usbhost"))
    words = ports | {"001/002": address}
    for row in rows:
        _, example, status, then = row.cells
        then = replaced(then, ports)
        said = shell(replaced(code(example)[0], words))
        assert ("is deprecated" in said) == ("with a warning" in status)
        after = state(shell) if code(then) else ""
        gone = re.findall(r"~~`([^`]+)`~~", then)
        for text in code(then):
            assert (text in after) == (text not in gone), (row, after)


@pytest.mark.parametrize("row", [r for r in EXAMPLES if r.cells[3] == STARTS], ids=str)
def test_what_starts_a_machine(
    row: Row, lab_machine: Shell, ports: dict[str, str]
) -> None:
    _, example, status, _ = row.cells
    shell = lab_machine
    shell(f"VBoxManage modifyvm Lab --vrdeport {ports['3389']}")
    line = replaced(code(example)[0], ports)
    if shlex.split(line)[0] == "VBoxManage":
        said = shell(line)
    else:
        process = shell.start(line)
        wait(lambda: 'VMState="running"' in state(shell), "the machine")
        said = shell.said("VBoxHeadless")
    assert ("is deprecated" in said) == ("with a warning" in status)
    assert ("starts headless" in said) == (
        "headless, and a message" in status or "gui" in line
    )
    assert "Warning: not supported: microphone: QEMU's VNC server offers none" in said
    after = state(shell)
    assert 'VMState="running"' in after
    assert ('vrde="off"' in after) == (" off" in line)
    port = ports["5000"] if ports["5000"] in line else ports["3389"]
    assert (f"vrdeport={port}\n" in after) == ('vrde="on"' in after)
    for address in re.findall(r"127\.0\.0\.1", line):
        assert f'vrdeaddress="{address}"' in after
    shell("VBoxManage controlvm Lab poweroff")
    if shlex.split(line)[0] != "VBoxManage":
        assert process.wait(20) == 0


def test_output_that_nobody_reads_ends_no_machine(
    lab_machine: Shell, ports: dict[str, str]
) -> None:
    shell, port = lab_machine, ports["3389"]
    shell(f"VBoxManage modifyvm Lab --vrdeport {port}")
    process = shell.start("sh -c 'VBoxHeadless --startvm Lab | head -1'")
    wait(lambda: f"\nvrdeport={port}\n" in state(shell), "the remote display")
    shell("VBoxManage controlvm Lab screenshotpng here.png")
    shell("VBoxManage controlvm Lab poweroff")
    process.wait(60)
    assert shell.said("sh").splitlines()[0].startswith("rusb Headless Interface")
    assert "Traceback" not in shell.said("sh")
