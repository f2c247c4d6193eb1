"""``rusb demo``: server, guest and client as three processes, told as a story."""

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rusb.client.backends._emulated.fat import make_fat_image
from rusb.errors import RusbError

from ._common import run_async

_FOLDERS = ("RUSB_STATE", "RUSB_RUNTIME")
"""What keeps demos that run at the same time apart."""

STEP_SECONDS = 15
FILE_SIZE = 4 << 20

MACHINE = """\
<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{6f1d2a34-0b55-4c1e-8d0e-7a5b3c9e1f20}" name="Demo">
    <Hardware>
      <USB>
        <Controllers>
          <Controller name="xHCI" type="XHCI"/>
        </Controllers>
        <DeviceFilters>
          <DeviceFilter name="Flash drives" active="true" product="*Flash*"
                        remote="yes"/>
          <DeviceFilter name="Keyboards of this host" active="true"
                        product="*Keyboard*" remote="no"/>
        </DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the directory with the log and the disk image",
    )


def run(args: argparse.Namespace) -> int:
    """Play the demo; status 0 only if every step held."""
    with tempfile.TemporaryDirectory(prefix="rusb-demo-") as name:
        folder = Path(name)
        try:
            run_async(_Demo(folder).play())
        finally:
            if args.keep:
                kept = folder.with_name(folder.name + ".kept")
                folder.rename(kept)
                folder.mkdir()
                print(f"kept: {kept}")
    return 0


class _Demo:
    """The three processes and what they are to show."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "VBox.log"
        self._image = folder / "stick.img"
        self._start = time.monotonic()

    async def play(self) -> None:
        """Run every step; a step that does not hold raises."""
        payload = os.urandom(FILE_SIZE)
        image = make_fat_image(16 << 20, {"PAYLOAD.BIN": payload}, "RUSB DEMO")
        self._image.write_bytes(image)
        (self._folder / "Demo.vbox").write_text(MACHINE)
        self._tell("the client has a flash drive and a keyboard; the machine's")
        self._tell("filters admit the drive and refuse the keyboard")
        async with self._serve() as port, self._connect(port):
            await self._wait("VUSB: Attached")
            self._tell(
                "the server has attached the drive; a pyusb program is the guest"
            )
            lines = await self._guest("PAYLOAD.BIN", "HELLO.TXT")
            self._expect(hashlib.sha256(payload).hexdigest() in "".join(lines))
            self._tell("now the drive is unplugged …")
            away = self._image.with_suffix(".away")
            self._image.rename(away)
            await self._wait("VUSB: Detached")
            self._tell("… and plugged in again")
            away.rename(self._image)
            await self._wait("VUSB: Attached", 2)
            lines += await self._guest("PAYLOAD.BIN", "HELLO.TXT")
            written = [s for s in lines if "HELLO.TXT: " in s]
            self._expect(len({s.split()[-1] for s in written}) == 1)
            self._expect(len(written) == 3)
            self._expect("refused" in self._log.read_text())
        self._expect(b"written by the guest" in self._image.read_bytes())
        self._tell(
            "the file that the guest wrote is in the client's image of the drive"
        )
        print("\nthe tail of VBox.log:")
        for line in self._log.read_text().splitlines()[-14:]:
            print(f"  {line}")
        figures = [s for s in lines if s.startswith("moved ")]
        seconds = time.monotonic() - self._start
        print(f"\nfigures: the guest {figures[0]}; the whole demo took {seconds:.1f} s")

    # ------------------------------------------------------------ processes ----

    @contextlib.asynccontextmanager
    async def _serve(self) -> AsyncIterator[int]:
        command = ["serve", str(self._folder / "Demo.vbox")]
        command += ["--guest", f"pyusb:{self._folder / 'bus'}"]
        command += ["--address", "127.0.0.1", "--port", "5000-5999"]
        command += ["--log", str(self._log)]
        async with self._process("server", command) as said:
            port = re.search(r"listening on port (\d+)", await said(r"listening on"))
            assert port is not None
            yield int(port[1])

    @contextlib.asynccontextmanager
    async def _connect(self, port: int) -> AsyncIterator[None]:
        command = ["connect", f"127.0.0.1:{port}"]
        command += ["--backend", f"emulated:flash-drive={self._image},keyboard"]
        command += ["--known-servers", str(self._folder / "known_servers")]
        async with self._process("client", command) as said:
            await said("connected to")
            yield

    @contextlib.asynccontextmanager
    async def _process(
        self, name: str, command: list[str]
    ) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
        """Run ``rusb COMMAND`` while the block runs; its words are shown."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rusb",
            *command,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(_FOLDERS, str(self._folder))},
        )
        reader = process.stderr
        assert reader is not None
        lines: asyncio.Queue[str] = asyncio.Queue()

        async def show() -> None:
            while line := (await reader.readline()).decode(errors="replace").rstrip():
                print(f"  {name}: {line}", flush=True)
                lines.put_nowait(line)

        showing = asyncio.ensure_future(show())

        async def said(pattern: str) -> str:
            """Wait for a line."""
            async with asyncio.timeout(STEP_SECONDS):
                while not re.search(pattern, line := await lines.get()):
                    pass
            return line

        try:
            yield said
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(STEP_SECONDS):
                await process.wait()
                await showing
        if process.returncode:
            raise RusbError(f"the {name} ended with status {process.returncode}")

    async def _guest(self, read_name: str, write_name: str) -> list[str]:
        """Run the guest's program and return its lines."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rusb.server.guests.pyusb",
            "--dir",
            str(self._folder / "bus"),
            str(Path(__file__).with_name("_demo_guest.py")),
            str(STEP_SECONDS),
            read_name,
            write_name,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(2 * STEP_SECONDS):
            out, _ = await process.communicate()
        lines = out.decode().splitlines()
        for line in lines:
            print(f"  guest:  {line}")
        self._expect(process.returncode == 0)
        return lines

    # --------------------------------------------------------------- checks ----

    async def _wait(self, text: str, times: int = 1) -> None:
        """Wait until the log has *text* so many times."""
        async with asyncio.timeout(STEP_SECONDS):
            while self._log.read_text().count(text) < times:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)

    @staticmethod
    def _tell(text: str) -> None:
        print(text, flush=True)

    @staticmethod
    def _expect(held: bool) -> None:
        if not held:
            raise RusbError("the demo did not work; see above")
