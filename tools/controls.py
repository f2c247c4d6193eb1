"""What a control transfer through libusb costs a client: this one beside another one.

``python tools/controls.py OTHER`` runs a server with the loopback guest, a client of
this checkout, and one of the Python OTHER (``.venv/bin/python`` of another checkout),
each with a simulated bus (tools/fakeusb, so it needs root). Rounds alternate; it prints
CPU us of the client for each transfer, medians, and the median of the ratios. The bus
is a thread of the client; its share is printed apart and is in all other figures, and
so is what it costs to wake it. With ``--pin`` the clients have a core for themselves,
so that no other one is woken for that; with ``--at-once`` the bus answers within the
call that asks it, without its thread.

With ``--machine`` the clients run in a virtual machine instead, which has real devices
for them: its own kernel's, at a host controller of QEMU's. It is emulated, so that only
the ratio says something.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rusb.cli._common import run_async  # noqa: E402
from rusb.filters.model import Filter  # noqa: E402
from rusb.server.config import ServerConfig  # noqa: E402
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest  # noqa: E402
from rusb.server.server import Server  # noqa: E402
from rusb.server.vbox.settings import Machine  # noqa: E402
from rusb.usb.setup import SetupPacket  # noqa: E402
from rusb.usb.types import DescriptorType  # noqa: E402
from rusb.usb.urb import UrbStatus  # noqa: E402
from tests.support.lab.usblab import Client  # noqa: E402

FAKEUSB = CHECKOUT / "tools" / "fakeusb"


class Simulated:
    """Clients of this machine, each with a simulated device that has no isochronous
    endpoint, so that it goes over the same wire with every version."""

    address = "127.0.0.1"
    request = SetupPacket(0xC0, 1, 0, 0, 64)
    """What the device says of itself (fakeusb/README.txt)."""

    def __init__(self, folder: Path, cores: set[int]) -> None:
        self._folder, self._cores = folder, cores
        self._clients: list[subprocess.Popen[bytes]] = []

    def start(self, python: str, port: int) -> int:
        """Start a client; return its number."""
        folder = self._folder / str(len(self._clients))
        folder.mkdir()
        bus = str(FAKEUSB / "fakeusb-run"), "-r", str(folder / "usb"), "-d", "2-1.4"
        words = "-m", "rusb", "connect", "--force", f"{self.address}:{port}"
        env = {**os.environ, "RUSB_STATE": str(folder)}
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            env.pop(name, None)
        with open(folder / "said", "wb") as said:
            client = subprocess.Popen(
                [*bus, python, *words], cwd=folder, env=env, stdout=said, stderr=said
            )
        os.sched_setaffinity(client.pid, self._cores)
        self._clients.append(client)
        return len(self._clients) - 1

    def cpu(self, client: int) -> tuple[float, float]:
        """Seconds of CPU of all threads of a client, and of all but its first."""
        tasks = Path(f"/proc/{self._clients[client].pid}/task").iterdir()
        threads = sorted(tasks, key=lambda t: int(t.name))
        used = [int((t / "schedstat").read_text().split()[0]) / 1e9 for t in threads]
        return sum(used), sum(used[1:])

    def close(self) -> None:
        """End them."""
        for client in self._clients:
            client.terminate()
            client.wait()


class InMachine:
    """Clients in a virtual machine, each with a tablet of QEMU's."""

    address = "10.0.2.2"
    request = SetupPacket.get_descriptor(DescriptorType.STRING, 2, 64, 0x0409)
    """Its name, which the server does not know."""

    def __init__(self, count: int) -> None:
        tablets = (f"usb-tablet,bus=xhci.0,serial=for{n}" for n in range(count))
        devices = (word for tablet in tablets for word in ("-device", tablet))
        self._machine = Client(*devices, memory=600)
        self._pids: list[str] = []

    def start(self, python: str, port: int) -> int:
        """Start a client; return its number."""
        number = len(self._pids)
        home = f"/run/client{number}"
        words = f"-B -m rusb connect --all --filter serialNumber=for{number}"
        self._machine.sh(
            f"mkdir {home}; cd {home}; (RUSB_STATE={home} HOME={home} setsid"
            f" {python} {words} {self.address}:{port} >{home}/said 2>&1 & echo $!)"
            f" >{home}/pid"
        )
        self._pids.append(self._machine.sh(f"cat {home}/pid").strip())
        return number

    def cpu(self, client: int) -> tuple[float, float]:
        """Seconds of CPU of a client; it has no bus."""
        used = self._machine.sh(f"cat /proc/{self._pids[client]}/task/*/schedstat")
        lines = (line.split() for line in used.splitlines())
        return sum(int(words[0]) for words in lines if words) / 1e9, 0.0

    def close(self) -> None:
        """End it, and them."""
        self._machine.close()


async def run(device: LoopbackDevice, request: SetupPacket, count: int) -> None:
    """Run control transfers, one after the other."""
    for _ in range(count):
        result = await device.control(request)
        assert result.status is UrbStatus.OK, result


async def main(
    pythons: list[str], clients: Simulated | InMachine, rounds: int, count: int
) -> None:
    """Measure and print."""
    machine = Machine(
        name="controls", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
    )
    machine.remote_display.allow_multi_connection = True
    guest = LoopbackGuest()
    used: list[list[tuple[float, float]]] = [[] for _ in pythons]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(clients.close)
        config = ServerConfig(
            machine,
            ports=[0],
            address="127.0.0.1",
            log=str(folder / "log"),
            state=folder,
        )
        async with Server(config, guest=guest, report=lambda *said: None) as server:
            ends: list[tuple[int, LoopbackDevice]] = []
            for n, python in enumerate(pythons):
                client = clients.start(python, server.port)
                async with asyncio.timeout(120):
                    ends.append((client, (await guest.wait_for(n + 1))[-1]))
            for round_ in range(rounds):
                for n in range(len(ends))[:: 1 if round_ % 2 else -1]:
                    client, device = ends[n]
                    await run(device, clients.request, count // 10)
                    before = clients.cpu(client)
                    await run(device, clients.request, count)
                    after = clients.cpu(client)
                    both = ((a - b) / count for a, b in zip(after, before, strict=True))
                    used[n].append((next(both), next(both)))
    for python, found in zip(pythons, used, strict=True):
        whole, bus = (median(f[i] for f in found) * 1e6 for i in (0, 1))
        print(f"{whole:.1f} us, {bus:.1f} of them the bus: {python}")
    if len(used) > 1:
        ratios = sorted(a[0] / b[0] for a, b in zip(*used, strict=True))
        print(
            f"ratio {median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f}),"
            f" load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", nargs="*", help="Python of another checkout")
    parser.add_argument("--pin", action="store_true", help="a core for each end")
    parser.add_argument("--at-once", action="store_true", help="a bus with no thread")
    parser.add_argument("--machine", action="store_true", help="clients in a machine")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--transfers", type=int, default=2000, help="of a round")
    args = parser.parse_args()
    subprocess.run(["make", "-s", "-C", FAKEUSB], check=True)
    os.environ["FAKEUSB_AT_ONCE"] = str(int(args.at_once))
    client_cores = os.sched_getaffinity(0)
    if args.pin:
        first, *others = sorted(client_cores)
        os.sched_setaffinity(0, others)
        client_cores = {first}
    pythons = [sys.executable, *args.other]
    with tempfile.TemporaryDirectory() as folder:
        clients = (
            InMachine(len(pythons))
            if args.machine
            else Simulated(Path(folder), client_cores)
        )
        run_async(main(pythons, clients, args.rounds, args.transfers))
