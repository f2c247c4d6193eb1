"""A fast mouse at a distance: no report waits for the round trip of another."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from rusb.cli._bench.hearing import REPORT_SIZE, Source, hear, redirected
from rusb.cli._bench.plan import REPORTS, Job
from rusb.cli._bench.processes import run_far, run_relay
from tests.support.whole_path import Lab, machine

COUNT = 1500


@pytest.mark.parametrize("rtt_ms", [20, 60])
async def test_a_thousand_reports_a_second_all_arrive(
    tmp_path: Path, rtt_ms: int
) -> None:
    """With five transfers in flight, 250 or 83 of them came in a second."""
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(40),
        lab.server,
        run_relay(lab.server.port, rtt_ms) as port,
        run_far(port, tmp_path) as far,
    ):
        await far.order("plug", kind="clock", count=1)
        (clock,) = await lab.guest.wait_for(1)
        async with redirected(clock) as ear:
            found = await hear(
                Source(far, ear), Job(REPORTS, REPORT_SIZE, rtt_ms=rtt_ms), COUNT
            )
    assert len(found.lags) == COUNT
    assert all(a < b for (a, _), (b, _) in pairwise(ear.heard))
    assert min(found.lags) > rtt_ms / 2000 - 0.001
