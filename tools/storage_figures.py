#!/usr/bin/env python3
"""Measure what a disk at a distance costs a real Linux (docs/spec/storage.md, 7).

    .venv/bin/python tools/storage_figures.py [--rtt MS] [--rounds N] [--read MIB]
                                              [--write MIB] [MODE...]

A MODE is one of ``--storage``, or ``usbip``: then it is Linux's vhci_hcd in another
machine that has the disk, by our own USB/IP server behind the same delay.

A guest in QEMU reads and writes the disk of a client behind a delay with dd, directly.
The modes take turns; each line has the MiB a second of each round, and their median.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.lab.far import speeds
from tests.support.lab.usblab import VM, Client, Guest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=["off", "early", "ahead"])
    parser.add_argument("--rtt", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", type=int, default=16)
    parser.add_argument("--write", type=int, default=4)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in args.modes}
    with contextlib.ExitStack() as stack:
        machines: dict[str, VM] = {"qemu": stack.enter_context(Guest())}
        if "usbip" in args.modes:
            machines["usbip"] = stack.enter_context(Client(memory=384))
        for n in range(args.rounds):
            for mode in args.modes:
                with tempfile.TemporaryDirectory(dir="/tmp") as folder:
                    vm = machines["usbip" if mode == "usbip" else "qemu"]
                    sizes = {"read": args.read, "write": args.write}
                    place = Path(folder) / mode
                    one = speeds(vm, place, mode, args.rtt, **sizes)
                found[mode].append(one)
                print(f"round {n + 1} {mode}: {one[0]:.2f} {one[1]:.2f}", flush=True)
    base = None
    for mode, rounds in found.items():
        medians = [statistics.median(r[n] for r in rounds) for n in (0, 1)]
        base = base or medians
        gains = [value / first for value, first in zip(medians, base, strict=True)]
        print(
            f"{mode}: read {medians[0]:.2f} MiB/s ({gains[0]:.2f} times the first),"
            f" write {medians[1]:.2f} MiB/s ({gains[1]:.2f} times)"
        )


if __name__ == "__main__":
    main()
