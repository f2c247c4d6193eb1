"""A key beside a disk, over a network of the kernel's that has a rate."""

import statistics
from pathlib import Path

import pytest

from rusb.cli._bench.plan import Job
from tests.support.lab.beside import beside
from tests.support.lab.network import Network

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("network loss")]

RATE = 5
"""Mbit/s: slow enough for a busy machine to keep up with it."""

KEYS = 40


@pytest.mark.parametrize("wire", ["vrdpusb", "rdpeusb"])
@pytest.mark.parametrize(
    "job",
    [Job("bulk-in", 120 << 10), Job("bulk-in", 64 << 10, 32)],
    ids=lambda job: f"{job.size >> 10} KiB x {job.depth}",
)
async def test_a_key_is_not_later_than_twice_what_cannot_be_helped(
    tmp_path: Path, job: Job, wire: str
) -> None:
    """That is the message that is on its way already, and the round trip."""
    Network.check()
    with Network(RATE) as network:
        async with beside(network, tmp_path, wire) as found:
            heard = await found.lags(job, KEYS, 0.037)
    assert len(heard.lags) == KEYS
    message = job.size / (RATE * 125_000)
    assert statistics.median(heard.lags) < 2 * message
    assert heard.moved > 0.8 * RATE * 125_000


async def test_a_key_passes_as_much_as_a_device_may_have_in_flight(
    tmp_path: Path,
) -> None:
    """The client goes on reading what it is asked for, the keyboard, too."""
    Network.check()
    with Network(4 * RATE) as network:
        async with beside(network, tmp_path) as found:
            heard = await found.lags(Job("bulk-in", 1 << 20, 32), KEYS, 0.02)
    assert len(heard.lags) == KEYS  # the guest had asked for 32 before
