"""QEMU's end of a move: its migration, by its monitor."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from rusb.errors import GuestError
from rusb.usb.text import clean_text

from ..process import Hypervisor

__all__ = [
    "Migration",
    "Progressed",
    "blocked_by_qemu",
    "connect_clipboard",
    "go_on",
    "load",
    "prepare",
]

POLL: Final = 0.05
"""Seconds between two looks at how far QEMU is."""

NAME: Final = "rusb-teleport"
"""What QEMU calls our socket."""

FORMAT: Final = " format used by node "
"""In QEMU's reason (7.2) why a disk cannot be moved."""

GO_ON_TIMEOUT: Final = 15.0
"""Seconds until a machine must run again whose move failed."""

_RUNS: Final = (
    "setup",
    "active",
    "device",
    "cancelling",
    "pre-switchover",
    "wait-unplug",
    "postcopy-active",
)
"""States of a migration that is under way."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a migration is, in bytes of memory."""

    transferred: int = 0
    remaining: int = 0
    total: int = 0

    @property
    def percent(self) -> int:
        """How much of the memory is at the target and has not changed since."""
        done = max(self.total - self.remaining, 0)
        return 100 * done // self.total if self.total else 0

    def __str__(self) -> str:
        sent, left = self.transferred >> 20, self.remaining >> 20
        return f"{self.percent}%, {sent} MB transferred, {left} MB remaining"


async def _ask(hypervisor: Hypervisor, command: str) -> dict[str, Any]:
    answer = await hypervisor.execute(command)
    return answer if isinstance(answer, dict) else {}


async def connect_clipboard(hypervisor: Hypervisor, *, is_on: bool) -> None:
    """Connect the guest's port for the clipboard, or nothing, which can be moved.

    Raises:
        GuestError: QEMU refused.
    """
    agent = {"type": "qemu-vdagent", "data": {"mouse": False, "clipboard": True}}
    backend = agent if is_on else {"type": "null", "data": {}}
    await hypervisor.execute("chardev-change", {"id": "agent", "backend": backend})


async def blocked_by_qemu(hypervisor: Hypervisor) -> list[str]:
    """Return why QEMU cannot move its machine, a sentence each."""
    reasons = (await _ask(hypervisor, "query-migrate")).get("blocked-reasons")
    found = reasons if isinstance(reasons, list) else []
    return [_blocked(clean_text(str(why))) for why in found]


def _blocked(why: str) -> str:
    """QEMU's reason, and what to do about one that can be helped."""
    text = f"QEMU cannot move the machine: {why}"
    if FORMAT in why:
        text += (
            "; copy the disk (clonemedium OLD NEW.img --format RAW), and attach the"
            " copy at both hosts"
        )
    return text


async def _switch_on(hypervisor: Hypervisor, *names: str) -> None:
    await hypervisor.execute(
        "migrate-set-capabilities",
        {"capabilities": [{"capability": name, "state": True} for name in names]},
    )


class Migration:
    """The source's: QEMU writes into *sock*'s peer until it says that it is done.

    Args:
        hypervisor: runs the machine.
        downtime: seconds that it may stand still.
        bandwidth: bytes a second; 0: no limit.
    """

    def __init__(self, hypervisor: Hypervisor, downtime: float, bandwidth: int) -> None:
        self._hypervisor = hypervisor
        self._downtime, self._bandwidth = downtime, bandwidth

    async def start(self, sock: socket.socket) -> None:
        """Begin to write into a socket, which QEMU gets a copy of.

        Raises:
            GuestError: QEMU refused.
        """
        qemu = self._hypervisor
        await _switch_on(qemu, "pause-before-switchover", "auto-converge")
        await qemu.execute(
            "migrate-set-parameters",
            {
                "downtime-limit": int(self._downtime * 1000),
                "max-bandwidth": self._bandwidth,
            },
        )
        await qemu.lend(NAME, sock)
        await qemu.execute("migrate", {"uri": f"fd:{NAME}"})

    async def wait_still(self, tell: Callable[[Progressed], Awaitable[None]]) -> None:
        """Wait until the machine stands still, and little is left to send.

        Raises:
            GuestError: QEMU gave up.
        """
        await self._wait("pre-switchover", tell, POLL)

    async def finish(self, tell: Callable[[Progressed], Awaitable[None]]) -> None:
        """Let QEMU send the rest; return when it has.

        Raises:
            GuestError: QEMU gave up.
        """
        await self._hypervisor.execute("migrate-continue", {"state": "pre-switchover"})
        await self._wait("completed", tell, POLL / 5)  # the guest stands still

    async def _wait(
        self,
        wanted: str,
        tell: Callable[[Progressed], Awaitable[None]],
        period: float,
    ) -> None:
        while True:
            if await self._status(tell) == wanted:
                return
            await asyncio.sleep(period)

    async def _status(self, tell: Callable[[Progressed], Awaitable[None]]) -> str:
        found = await _ask(self._hypervisor, "query-migrate")
        status, memory = str(found.get("status")), found.get("ram")
        if isinstance(memory, dict):
            names = ("transferred", "remaining", "total")
            await tell(Progressed(*(int(memory.get(name, 0)) for name in names)))
        if status in ("failed", "cancelled"):
            why = clean_text(str(found.get("error-desc") or status))
            raise GuestError(f"QEMU gave up sending the machine: {why}")
        return status


async def go_on(hypervisor: Hypervisor) -> None:
    """After a move that failed, and whose socket is closed: run as before.

    QEMU notices at its next write, and takes its disks back. Only where it waits for
    us it has to be told; in other states that could leave it without its disks.

    Raises:
        GuestError: it does not go on.
    """
    problem = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GO_ON_TIMEOUT):
            while not hypervisor.failure:
                try:
                    found = await _ask(hypervisor, "query-migrate")
                    problem = f"its move is {found.get('status')}"
                    if found.get("status") == "pre-switchover":
                        await hypervisor.execute("migrate_cancel")
                    elif found.get("status") not in _RUNS:
                        await hypervisor.execute("cont")  # takes the disks back, too
                        status = await hypervisor.status()
                        problem = f"it is {status}"
                        if status == "running":
                            return
                except GuestError as error:
                    problem = str(error)
                await asyncio.sleep(POLL)
    raise GuestError(f"the machine does not go on: {hypervisor.failure or problem}")


async def prepare(hypervisor: Hypervisor, sock: socket.socket) -> None:
    """The target's: have QEMU read its state from a socket, of which it gets a copy.

    Its images are not touched until it is told to run.

    Raises:
        GuestError: QEMU refused.
    """
    await _switch_on(hypervisor, "late-block-activate")
    await hypervisor.lend(NAME, sock)
    await hypervisor.execute("migrate-incoming", {"uri": f"fd:{NAME}"})


async def load(hypervisor: Hypervisor) -> None:
    """Wait until the target's QEMU has all of it.

    Raises:
        GuestError: it cannot use it, and has ended.
    """
    while True:
        found = await _ask(hypervisor, "query-migrate")
        status = found.get("status")
        if status == "failed":
            why = clean_text(str(found.get("error-desc") or status))
            raise GuestError(f"QEMU cannot load the machine: {why}")
        if status == "completed" and await hypervisor.status() == "paused":
            return
        await asyncio.sleep(POLL / 5)
