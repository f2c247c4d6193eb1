"""Vagrant's own VirtualBox driver, as Debian has it, drives our VBoxManage.

The guide's table of its calls says what comes of each.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rusbserver import CHECKOUT

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("vagrant"),
]

GUIDE = CHECKOUT / "docs" / "guide" / "vboxmanage.md"
CALLS = Path(__file__).with_name("vagrant_calls.rb")


def table() -> dict[str, str]:
    """The guide's rows: a call, and what comes of it."""
    section = GUIDE.read_text().partition("### Vagrant's calls")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.M)
    assert rows
    return dict(rows)


@pytest.fixture(scope="module")
def calls(vboxmanage: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """What each call brought."""
    if not shutil.which("vagrant"):
        reason = "install it: apt-get install --no-install-recommends vagrant"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir="/tmp") as text, socket.socket() as port:
        folder = Path(text)
        (folder / "bin").mkdir()
        (folder / "bin" / "VBoxManage").symlink_to(vboxmanage)
        port.bind(("127.0.0.1", 0))
        number = port.getsockname()[1]
        port.close()
        env = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": text,
            "RUSB_HOME": f"{text}/home",
            "RUSB_STATE": f"{text}/state",
            "RUSB_RUNTIME": f"{text}/run",
            "RUSB_MACHINE_FOLDER": f"{text}/machines",
            "RUSB_ACCEL": "tcg",
        }
        done = subprocess.run(
            ["ruby", "-W0", CALLS, text, str(number)],
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        yield {row.pop("call"): row for row in rows}


def test_the_guide_has_each_call(calls: dict[str, dict[str, Any]]) -> None:
    assert list(table()) == list(calls)


@pytest.mark.parametrize("call", table())
def test_a_call_does_what_the_guide_says(
    call: str, calls: dict[str, dict[str, Any]]
) -> None:
    wanted, found = table()[call], calls[call]
    if wanted.startswith("refused: "):
        sentence = wanted.removeprefix("refused: ").replace("`", "")
        assert found["refused"].startswith(f"VBoxManage: error: {sentence}")
    elif wanted.startswith("nothing: "):
        assert found == {"error": wanted.split("`")[1]}
    else:
        assert wanted.startswith("works")
        assert "result" in found, found
        for text in re.findall("`([^`]+)`", wanted):
            assert text in json.dumps(found["result"], separators=(",", ":")), found
