"""Somebody who means well, beside those who do not."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sized

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.session import connect
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab

__all__ = ["others_go_on"]


@contextlib.asynccontextmanager
async def others_go_on(lab: Lab, *, is_usb_only: bool = False) -> AsyncIterator[Sized]:
    """Move data through a client's device while the block runs, and after it.

    Yields:
        As many things as there were transfers.
    """
    config = lab.config()
    config.is_usb_only = is_usb_only
    backend = EmulatedBackend(devices=[Loopback()])
    async with connect(config, backends=[backend]):
        (device,) = await lab.guest.wait_for(1)

        async def move() -> None:
            for read in itertools.cycle((True, False)):
                if read:
                    result = await device.read(Loopback.SOURCE, 65536)
                else:
                    result = await device.write(Loopback.SINK, bytes(65536))
                assert (result.status, result.length) == (UrbStatus.OK, 65536)
                rounds.append(read)

        rounds: list[bool] = []
        work = asyncio.create_task(move())
        try:
            yield rounds
            seen = len(rounds)
            while len(rounds) < seen + 10 and not work.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        finally:
            work.cancel()
            await asyncio.wait([work])
        assert work.cancelled(), work.exception()
