"""Reads at devices that came over another host: QEMU is to act on all that was said
before the machine moves (teleport.md 7.9)."""

from typing import cast

import pytest

from rusb.errors import GuestError
from rusb.server.machine.process import Hypervisor
from rusb.server.machine.teleport import reads
from rusb.server.machine.teleport.arrival import Arrival
from rusb.server.machine.teleport.messages import What
from rusb.server.machine.teleport.reads import WaitingReads


class Place:
    """A QEMU, and what came to it with something under way.

    Attributes:
        looks: so often something is under way after each step.
        done: what was done, in order.
    """

    is_carrying = True

    def __init__(self, looks: int) -> None:
        self.looks = self._left = looks
        self.done: list[object] = []

    def _do(self, what: object) -> None:
        assert not self._left or what is What.SUSPEND, "something is under way"
        self.done.append(what)
        self._left = self.looks

    async def execute(self, command: str) -> None:
        self._do(command)

    async def ask(self, what: What) -> None:
        self._do(what)

    @property
    def is_through(self) -> bool:
        self._left = max(self._left - 1, 0)
        return not self._left

    def reads(self) -> WaitingReads:
        return WaitingReads(cast(Hypervisor, self), (), [cast(Arrival, self)])


async def test_what_is_under_way_arrives_before_qemu_is_asked() -> None:
    place = Place(3)
    await place.reads().suspend()
    assert place.done == [What.SUSPEND, "query-status"] * 2
    assert place.is_through


async def test_what_never_arrives_keeps_the_machine_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reads, "THROUGH_TIMEOUT", 0.05)
    place = Place(1 << 30)
    with pytest.raises(GuestError, match="takes too long to take what the guest says"):
        await place.reads().suspend()
    assert place.done == [What.SUSPEND]
