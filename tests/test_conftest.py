"""What tests/conftest.py adds to a run, in this process and in another."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

def test_skips() -> None:
    pytest.skip("nothing there")

@pytest.mark.hardware
def test_needs_hardware() -> None:
    pytest.skip("not plugged in")
"""

MISSES = """
import pytest

pytest.importorskip("no_such_module")

def test_never_runs() -> None:
    pass
"""

NOTES = """
def test_notes(matrix) -> None:
    matrix("their client", "our server", "TLS", "a screen")
"""


GROUPS = """
import os
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_together(number, matrix) -> None:
    matrix(os.environ["PYTEST_XDIST_WORKER"], "", "", "")
"""


TESTS = {
    "test_skips.py": SKIPS,
    "test_misses.py": MISSES,
    "test_notes.py": NOTES,
}


def run(
    folder: Path, tests: dict[str, str], *options: str, **env: str
) -> tuple[int, str]:
    """Return the status and the output of pytest with our conftest."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = hardware: it\n")
    for name, text in tests.items():
        (folder / name).write_text(text)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-rs"]
    command += ["--continue-on-collection-errors", *options]
    for plugin in ("asyncio", "cov", "timeout"):  # of no use here
        command += ["-p", f"no:{plugin}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=inherited | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=str)
def test_skipped_in_ci_is_failed(options: tuple[str, ...], tmp_path: Path) -> None:
    """A test, and a module that skips itself; the matrix is printed at the end."""
    status, said = run(tmp_path, TESTS, *options, CI="true")
    assert status != 0
    assert "1 failed, 1 passed, 1 skipped, 1 error" in said
    assert re.search("skipped in CI: .*nothing there", said)
    assert re.search("skipped in CI: .*no_such_module", said)
    assert "\ntheir client  our server  TLS  a screen\n" in said


def test_skipped_elsewhere_is_skipped(tmp_path: Path) -> None:
    status, said = run(tmp_path, TESTS, CI="")
    assert status == 0
    assert "1 passed, 3 skipped" in said


ROOM = """
import pytest

@pytest.fixture
def number() -> int:
    return 1
"""
USES = """
def test_uses(number) -> None:
    assert number == 1
"""


def test_a_directory_keeps_its_fixtures_in_any_order(tmp_path: Path) -> None:
    names = ("room/test_a.py", "test_notes.py", "room/test_b.py")
    (tmp_path / "room").mkdir()
    tests = {"room/conftest.py": ROOM, "test_notes.py": NOTES}
    tests |= dict.fromkeys((names[0], names[2]), USES)
    status, said = run(tmp_path, tests, "--import-mode=importlib", *names)
    assert status == 0, said
    assert "3 passed" in said


def test_a_group_stays_in_one_process(tmp_path: Path) -> None:
    groups = {"test_groups.py": GROUPS}
    status, said = run(tmp_path, groups, "-n", "2", "--dist", "loadgroup")
    assert status == 0
    assert len(set(re.findall("^gw[0-9]", said, re.M))) == 1
