"""An OSError in words, whatever Python, event loop or library made it."""

import asyncio
import errno
import os
import socket
import ssl
from pathlib import Path
from typing import cast

import pytest

from rusb.client.config import ClientConfig
from rusb.client.devices import load_backend
from rusb.client.session import connect
from rusb.errors import BackendError, ConnectionLost, GuestError, SettingsError
from rusb.oserrors import reason
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.usbredir import UsbredirGuest
from rusb.server.machine.teleport import link
from rusb.server.network import bind
from tests.support.rusbserver import refusing_port

REFUSED = os.strerror(errno.ECONNREFUSED)
NO_SUCH_FILE = os.strerror(errno.ENOENT)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 5)"), REFUSED),
        (OSError(errno.ENOENT, "error while attempting to bind"), NO_SUCH_FILE),
        (FileNotFoundError(errno.ENOENT, NO_SUCH_FILE, "/x"), NO_SUCH_FILE),
        (ssl.SSLError(1, "[SSL: EOF] the end (_ssl.c:1006)"), "[SSL: EOF] the end"),
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
        (UnicodeError("label empty or too long"), "no such name"),
    ],
)
def test_the_words_of_an_error(error: OSError | UnicodeError, words: str) -> None:
    assert reason(error) == words


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
async def test_a_name_that_is_none_is_an_error_like_others(
    host: str, tmp_path: Path
) -> None:
    """Python raises UnicodeError for it; a server may send a client to such a host."""
    config = ClientConfig(host, 3389, known_servers=tmp_path / "known")
    with pytest.raises(ConnectionLost, match="cannot find the host .*: no such name"):
        await connect(config, backends=[]).__aenter__()
    with pytest.raises(ConnectionLost, match="cannot connect to .*: no such name"):
        await link.dial(host, 3389)
    with pytest.raises(SettingsError, match="cannot listen on .*: no such name"):
        bind(host, 0)
    with pytest.raises(GuestError, match="cannot connect to .*: no such name"):
        await UsbredirGuest(f"{host}:1").attach(cast(AttachedDevice, None))
    with pytest.raises(GuestError, match="cannot listen at .*: no such name"):
        await UsbipGuest(f"{host}:1").start()
    with pytest.raises(BackendError, match="cannot connect to .*: no such name"):
        await load_backend(f"usbip:{host}").list_devices()


async def test_what_asyncio_raises_for_several_addresses() -> None:
    loop = asyncio.get_running_loop()
    with (
        refusing_port() as port,
        pytest.raises(OSError, match="111|Connect") as caught,
    ):
        await loop.create_connection(asyncio.Protocol, "localhost", port)
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
