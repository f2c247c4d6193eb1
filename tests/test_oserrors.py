"""An OSError in words, whatever Python, event loop or library made it."""

import asyncio
import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from rusb.errors import ConnectionLost
from rusb.oserrors import reason

REFUSED = os.strerror(errno.ECONNREFUSED)
NO_SUCH_FILE = os.strerror(errno.ENOENT)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 5)"), REFUSED),
        (OSError(errno.ENOENT, "error while attempting to bind"), NO_SUCH_FILE),
        (FileNotFoundError(errno.ENOENT, NO_SUCH_FILE, "/x"), NO_SUCH_FILE),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 5, 0, 0),"
                " [Errno 111] Connect call failed ('127.0.0.1', 5)"
            ),
            REFUSED,
        ),
        (
            OSError("Multiple exceptions: [Errno 101] x, [Errno 111] y"),
            f"{os.strerror(errno.ENETUNREACH)} and {REFUSED}",
        ),
        (TimeoutError(), os.strerror(errno.ETIMEDOUT)),
        (ConnectionResetError(), "ConnectionResetError"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        # their numbers are not the system's
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "[SSL] wrong version"), "[SSL] wrong version"),
        (ConnectionLost("cut"), "cut"),
    ],
)
def test_the_words_of_an_error(error: OSError, words: str) -> None:
    assert reason(error) == words


async def test_what_asyncio_raises_for_several_addresses() -> None:
    """Nobody listens at port 1, at neither address."""
    with pytest.raises(OSError, match="111|Connect") as caught:
        await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "localhost", 1
        )
    assert reason(caught.value) == REFUSED


def test_nobody_else_reads_strerror() -> None:
    root = Path(__file__).resolve().parent.parent
    folders = [root / name for name in ("rusb", "client", "server", "filters")]
    found = {
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if "strerror" in path.read_text("utf-8")
    }
    assert found == {"oserrors.py"}
