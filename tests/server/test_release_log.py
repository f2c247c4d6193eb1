"""VBox.log: its format, its rotation, what it does with hostile text."""

import re
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.machine.release_log import MAX_LINE, ReleaseLog


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_every_line_begins_with_the_run_time(tmp_path: Path) -> None:
    clock = Clock()
    log = ReleaseLog(str(tmp_path / "VBox.log"), clock=clock)
    clock.now += 3600 * 101 + 62.000345
    log.write("VRDP: hello")
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    assert all(re.match(r"\d{2,}:\d\d:\d\d\.\d{6} ", line) for line in lines)
    assert lines[-1] == "101:01:02.000345 VRDP: hello"


def test_the_header_says_what_ran_where(tmp_path: Path) -> None:
    ReleaseLog(str(tmp_path / "VBox.log")).close()
    text = (tmp_path / "VBox.log").read_text()
    assert re.search(r" rusb \S+ linux\..* release log\n", text)
    assert re.search(r" Log opened \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\n", text)
    for name in ("OS Product", "OS Release", "Host RAM", "Executable", "Process ID"):
        assert f" {name}: " in text


def test_older_logs_are_kept_up_to_three(tmp_path: Path) -> None:
    for number in range(6):
        log = ReleaseLog(str(tmp_path / "VBox.log"))
        log.write(f"run {number}")
        log.close()
    found = {p.name: p.read_text().splitlines()[-1][-5:] for p in tmp_path.iterdir()}
    assert found == {
        "VBox.log": "run 5",
        "VBox.log.1": "run 4",
        "VBox.log.2": "run 3",
        "VBox.log.3": "run 2",
    }


def test_t42_control_characters_and_endless_lines_do_not_pass(tmp_path: Path) -> None:
    log = ReleaseLog(str(tmp_path / "VBox.log"))
    log.write("Name = [\x1b[2Jx\r\n00:00:00.000000 forged\t]")
    log.write("y" * 100_000)
    log.close()
    lines = (tmp_path / "VBox.log").read_text().splitlines()
    assert lines[-2].endswith("Name = [[2Jx00:00:00.000000 forged ]")
    assert len(lines[-1]) < MAX_LINE + 40


def test_a_folder_that_is_not_there_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--log"):
        ReleaseLog(str(tmp_path / "nowhere" / "VBox.log"))


def test_a_full_disk_ends_the_log_and_not_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ReleaseLog("-")
    log._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - the log closes it
    log._path = Path("/dev/full")
    log.write("one")
    log.write("two")
    log.close()
    assert caplog.text.count("ends here: No space left on device") == 1


def test_standard_error_is_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    log = ReleaseLog(None)
    log.write("VRDP: hello")
    log.close()
    assert capsys.readouterr().err.endswith(" VRDP: hello\n")
