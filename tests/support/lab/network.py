"""A network of the kernel's own, between this host and a namespace for a client."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

__all__ = ["Network"]

PROGRAMS = ("ip", "iptables", "tc")
PACKET = 1514
CHECKOUT = Path(__file__).resolve().parents[3]


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


class Network:
    """A namespace for the client, and the cable to it. It needs root.

    Args:
        rate: Mbit/s, each way; 0: as many as there are.
        queue: bytes that wait at either end for that, a router with a short queue.
        rtt_ms: the round trip that it has.
    """

    def __init__(self, rate: float = 0, queue: int = 40_000, rtt_ms: float = 0) -> None:
        self.name = f"rusb-{os.getpid()}"
        self.near, self.far = f"ru{os.getpid()}", f"rv{os.getpid()}"
        self.subnet = f"10.{os.getpid() // 250 % 250}.{os.getpid() % 250}"
        self.server = f"{self.subnet}.1"
        self._hosts = itertools.count(2)
        self._host = ""
        self._rate, self._queue, self._rtt_ms = rate, queue, rtt_ms
        self._stack = contextlib.ExitStack()

    @staticmethod
    def check() -> None:
        """Skip the test if there is something lacking; in CI it fails."""
        lacking = [name for name in PROGRAMS if shutil.which(name) is None]
        if lacking or os.geteuid():
            reason = f"needs root, and {' and '.join(lacking or PROGRAMS)}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

    def __enter__(self) -> Self:
        run("ip", "netns", "add", self.name)
        self._stack.callback(self._end, "ip", "netns", "del", self.name)
        try:
            self._join()
            run("ip", "addr", "add", f"{self.server}/24", "dev", self.near)
            run("ip", "link", "set", self.near, "up")
            self.inside("ip", "link", "set", "lo", "up")
            self.inside("ip", "link", "set", self.far, "up")
            self.move()
            # fills queues, as the one of most computers does, and every kernel has it
            setting = "/proc/sys/net/ipv4/tcp_congestion_control"
            self.inside("sh", "-c", f"echo reno >{setting}")
            if self._rate:
                self._slow_down()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _end(*words: str) -> None:
        subprocess.run(words, capture_output=True)

    def _join(self) -> None:
        """Make the cable; a long one is a program that holds packets for a while."""
        if not self._rtt_ms:
            near = "ip", "link", "add", self.near, "type", "veth"
            run(*near, "peer", "name", self.far, "netns", self.name)
            self._stack.callback(self._end, "ip", "link", "del", self.near)
            return
        words = self.near, self.far, str(self._rtt_ms)
        cable = subprocess.Popen(
            [sys.executable, "-m", "tests.support.lab.distance", *words],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
        )
        self._stack.enter_context(cable)
        self._stack.callback(cable.kill)
        assert cable.stdout is not None
        assert cable.stdout.readline() == b"up\n"
        run("ip", "link", "set", self.far, "netns", self.name)

    def _slow_down(self) -> None:
        """Let packets wait for their turn: one at a time, as a network card has them
        and not as the kernel hands them to itself."""
        for at in ((), ("-n", self.name)):
            device = self.far if at else self.near
            run("ip", *at, "link", "set", device, "gso_max_segs", "1")
            limit = "rate", f"{self._rate}mbit", "burst", str(2 * PACKET)
            queue = "root", "tbf", *limit, "limit", str(self._queue)
            run("tc", *at, "qdisc", "add", "dev", device, *queue)

    @property
    def words(self) -> tuple[str, ...]:
        """What a command begins with that is run inside."""
        return "ip", "netns", "exec", self.name

    def inside(self, *words: str) -> None:
        run(*self.words, *words)

    def move(self) -> None:
        """The client gets another address, and loses the one before."""
        if self._host:
            self.inside("ip", "addr", "del", f"{self._host}/24", "dev", self.far)
        self._host = f"{self.subnet}.{next(self._hosts)}"
        self.inside("ip", "addr", "add", f"{self._host}/24", "dev", self.far)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """The cable is out."""
        run("ip", "link", "set", self.near, "down")
        try:
            yield
        finally:
            run("ip", "link", "set", self.near, "up")

    @contextlib.contextmanager
    def dropping(self, *how: str) -> Iterator[None]:
        """Packets vanish in both directions; nobody is told."""
        chains = "INPUT", "OUTPUT"
        for chain in chains:
            self.inside("iptables", "-A", chain, *how, "-j", "DROP")
        try:
            yield
        finally:
            for chain in chains:
                self.inside("iptables", "-D", chain, *how, "-j", "DROP")
