"""How late a key is beside a disk, over a network that the kernel slows down.

``python tools/beside.py [--rate MBIT] [--rtt MS]`` (as root) puts a client into a
network namespace, and prints for each flood the lags of 300 keys in ms, what the flood
moved, and twice of what cannot be helped: the largest message and the round trip.
"""

import argparse
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rusb.cli._bench.plan import Job  # noqa: E402
from rusb.cli._common import run_async  # noqa: E402
from tests.support.lab.beside import beside  # noqa: E402
from tests.support.lab.network import Network  # noqa: E402

JOBS = (
    Job("bulk-in", 120 << 10),
    Job("bulk-in", 64 << 10, 8),
    Job("bulk-in", 64 << 10, 32),
    Job("bulk-out", 64 << 10, 32),
    Job("bulk-in", 1 << 20, 32),
)
KEYS, INTERVAL = 300, 0.0171


async def main(rate: float, rtt_ms: float, wire: str) -> None:
    """Measure and print."""
    print("flood | median | 90 % | 99 % | twice message and round trip | MB/s")
    for job in JOBS:
        with (
            Network(rate, rtt_ms=rtt_ms) as network,
            tempfile.TemporaryDirectory(prefix="beside") as folder,
        ):
            async with beside(network, Path(folder), wire) as found:
                heard = await found.lags(job, KEYS, INTERVAL)
        lags = sorted(lag * 1000 for lag in heard.lags)
        cells = [f"{lags[len(lags) * part // 100]:.1f}" for part in (50, 90, 99)]
        limit = 2 * (job.size / (rate * 125) + rtt_ms)
        name = f"{job.name} {job.size >> 10} KiB x {job.depth}"
        moved = heard.moved / 1e6
        print(f"{name} | {' | '.join(cells)} | {limit:.0f} | {moved:.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20, help="Mbit/s")
    parser.add_argument("--rtt", type=float, default=0, help="ms")
    parser.add_argument("--wire", default="vrdpusb")
    args = parser.parse_args()
    run_async(main(args.rate, args.rtt, args.wire))
