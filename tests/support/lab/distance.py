"""A long cable: two network devices, and what one sends is at the other a while later.

``python -m tests.support.lab.distance NEAR FAR RTT_MS`` makes them, prints ``up`` and
runs until it is killed.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

__all__: list[str] = []

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # Linux, if_tun.h
AT_ONCE = 64
LARGEST = 2048


def make(name: str) -> int:
    """Return the file of a new network device."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    wanted = struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(file, TUNSETIFF, wanted)
    return file


def main(near: str, far: str, rtt_ms: float) -> None:
    """Carry packets."""
    files = one, two = make(near), make(far)
    other = {one: two, two: one}
    delay = rtt_ms / 2000
    under_way: dict[int, deque[tuple[float, bytes]]] = {one: deque(), two: deque()}
    print("up", flush=True)
    while True:
        now = time.monotonic()
        due = min((q[0][0] for q in under_way.values() if q), default=now + 1)
        readable, _, _ = select.select(files, (), (), max(0.0, due - now))
        now = time.monotonic()
        for file in readable:
            for _ in range(AT_ONCE):
                try:
                    packet = os.read(file, LARGEST)
                except (BlockingIOError, OSError):  # none, or the device is down
                    break
                under_way[file].append((now + delay, packet))
        for file, waiting in under_way.items():
            while waiting and waiting[0][0] <= now:
                _, packet = waiting.popleft()
                try:
                    os.write(other[file], packet)
                except OSError:  # that end is down, and loses it
                    pass


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
