"""``rusb screenshot``."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from rusb.cli import main
from rusb.server.display.status import status_frame
from tests.support.whole_path import Lab, machine


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[int]:
    """Run a server in a thread of its own; its port."""
    is_up, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with lab.server:
            is_up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert is_up.wait(20)
        yield lab.server.port
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("RUSB_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RUSB_PASSWORD", raising=False)
    return Lab(tmp_path, machine(monitors=2))


def test_a_picture_of_the_status_screen(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    file.write_bytes(b"what was there")
    with serving(lab) as port:
        for words in ([], ["--screen", "2", "--wait", "0.1", "-u", "vera", "-p", ""]):
            assert main(["screenshot", f"127.0.0.1:{port}", str(file), *words]) == 0
            found = Image.open(file)
            assert found.format == "PNG"
            frame = status_frame(800, 600, "Lab", [])[:600, :800]
            shown = Image.frombytes("RGB", (800, 600), frame.tobytes(), "raw", "BGRX")
            assert not ImageChops.difference(found.convert("RGB"), shown).getbbox()
    assert "AUTH: User: [vera]" in lab.log()
    assert sorted(p.name for p in tmp_path.glob("*screen*")) == ["screen.png"]


def test_a_screen_that_there_is_not(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "screen.png"
    with serving(lab) as port:
        words = ["screenshot", f"127.0.0.1:{port}", str(file), "--screen", "3"]
        assert main(words) == 67
    assert "the screen does not exist" in capsys.readouterr().err
    assert not file.exists()


def test_what_cannot_be_written_is_said_before_anybody_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["screenshot", "127.0.0.1:1", str(tmp_path)]) == 65
    assert "not a regular file" in capsys.readouterr().err
    nowhere = tmp_path / "no" / "screen.png"
    assert main(["screenshot", "127.0.0.1:1", str(nowhere)]) == 65
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--screen", "0"], "'0' is not a screen number from 1 to 64"),
        (["--screen", "65"], "'65' is not a screen"),
        (["--screen", "x"], "'x' is not a screen"),
        (["--wait", "-1"], "'-1' is not a number of seconds from 0 to 86400"),
        (["--wait", "nan"], "'nan' is not"),
        (["--wait", "soon"], "'soon' is not"),
    ],
)
def test_wrong_numbers(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["screenshot", "host", "file", *words])
    assert ended.value.code == 64
    assert says in capsys.readouterr().err
