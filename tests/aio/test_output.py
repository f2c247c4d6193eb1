"""Lines for people keep nobody waiting."""

import contextlib
import io
import os
import pty
import termios
from collections.abc import Callable, Iterator

import pytest

from rusb.aio.output import write_line
from tests.support.program import full_pipe


def stopped_reader() -> tuple[int, int, Callable[[], None]]:
    """Return both ends, and what makes room in it again."""
    reader, writer = full_pipe()

    def empty() -> None:
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(reader, 1 << 20)

    return reader, writer, empty


def stopped_terminal() -> tuple[int, int, Callable[[], None]]:
    """As after Ctrl-S; the other one is Ctrl-Q."""
    reader, writer = pty.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    return reader, writer, lambda: termios.tcflow(writer, termios.TCOON)


Place = tuple[int, int, Callable[[], None]]


@pytest.fixture(params=[stopped_reader, stopped_terminal])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found: Place = request.param()
    yield found
    for number in found[:2]:
        os.close(number)


def test_a_line_that_nobody_reads_is_lost_and_counted(place: Place) -> None:
    reader, writer, goes_on = place
    with open(writer, "w", closefd=False) as file:
        write_line(file, "first")
        write_line(file, "second")
        goes_on()
        write_line(file, "third")
        write_line(file, "fourth")
        said = os.read(reader, 1000).decode().splitlines()
        while said[-1] != "fourth":
            said += os.read(reader, 1000).decode().splitlines()
    assert said == ["(2 lines are missing here: nothing read them)", "third", "fourth"]


def test_what_is_no_file_of_the_system_is_written_to() -> None:
    file = io.StringIO()
    write_line(file, "text")
    assert file.getvalue() == "text\n"


def test_a_reader_that_has_gone_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    file = open(writer, "w")
    with pytest.raises(BrokenPipeError):
        write_line(file, "text")
    with contextlib.suppress(BrokenPipeError):
        file.close()
