"""``rusb connect`` and ``rdesktop-vrdp`` when their server is killed, as processes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import RUSB
from tests.support.rusbserver import CHECKOUT, RusbServer, text

LOST = "was lost: the server was killed, or the network in between closed it"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RusbServer]:
    found = RusbServer(tmp_path, text(), "--guest", "loopback")
    try:
        found.wait_log("TCP server listening")
        yield found
    finally:
        found.stop()


class Run:
    """A client as a process."""

    def __init__(self, server: RusbServer, folder: Path, *words: str) -> None:
        self._said = folder / "client.log"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*RUSB, *words, f"127.0.0.1:{server.port}"],
                cwd=CHECKOUT,
                env={
                    **os.environ,
                    "RUSB_STATE": str(folder),
                    "RUSB_BACKENDS": "emulated:keyboard",
                },
                stdout=said,
                stderr=said,
            )
        server.wait_log("Remote USB: ++++")

    def wait_said(self, words: str) -> None:
        end = time.monotonic() + 60
        while words not in self._said.read_text():
            assert time.monotonic() < end, self._said.read_text()
            time.sleep(0.05)


EMULATED = "--backend", "emulated:keyboard"


def test_ctrl_c_ends_the_dialling(server: RusbServer, tmp_path: Path) -> None:
    client = Run(server, tmp_path, "connect", *EMULATED)
    server.process.kill()
    client.wait_said(f"{LOST}. Connecting again")
    client.process.send_signal(signal.SIGINT)
    assert client.process.wait(60) == 130


@pytest.mark.parametrize(
    "words", [("connect", "--no-reconnect", *EMULATED), ("rdesktop", "-r", "usb")]
)
def test_the_others_end_with_76(
    server: RusbServer, tmp_path: Path, words: tuple[str, ...]
) -> None:
    client = Run(server, tmp_path, *words)
    server.process.kill()
    assert client.process.wait(60) == 76
    client.wait_said(LOST)
