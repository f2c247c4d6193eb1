"""What the kernel of a machine makes of our microphone and camera.

The programs are ``record.c`` and ``watch.c``; they need no library.
"""

import asyncio
import os
import re
import subprocess
from pathlib import Path

from tests.support.amount import IS_SOAK
from tests.support.lab.usblab import VM
from tests.support.prompt import Promptness, prompt

__all__ = ["SECONDS", "Recorder"]

SECONDS = 60 if IS_SOAK else 10


class Recorder:
    """Runs them in machines.

    Args:
        folder: where they are built.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sources = Path(__file__).parent
        for name in ("record", "watch"):
            command = ["gcc", "-O2", "-Wall", "-Werror", "-static", "-o"]
            command += [str(folder / name), str(sources / f"{name}.c")]
            subprocess.run(command, check=True, capture_output=True)

    async def run(
        self, vm: VM, name: str, device: str
    ) -> tuple[dict[str, int], Promptness]:
        """Run one of the programs on a device of a machine.

        Returns:
            What it counted, and how far we could see to it that nothing was late.
        """
        await asyncio.to_thread(vm.wait, f"test -c {device}")
        vm.put(f"/tmp/{name}", (self._folder / name).read_bytes())
        command = f"chmod +x /tmp/{name}; /tmp/{name} {device} {SECONDS}"
        with prompt(os.getpid(), vm.process.pid) as promptness:
            text = await asyncio.to_thread(vm.sh, command, SECONDS + 60)
        counts = {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", text)}
        return counts, promptness
