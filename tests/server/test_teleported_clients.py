"""A machine moves, and clients of ours go with it: afterwards nothing needs the source.

The guest is a BIOS, which reads and configures a keyboard whenever it starts.
"""

from dataclasses import replace

import pytest

from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport.messages import Display
from tests.support.breaking import until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Counting,
    Host,
    plugged,
    reset,
    state,
    teleport,
    wait_state,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


async def test_a_client_goes_where_its_machine_goes(source: Host, target: Host) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with plugged(source, *keyboards) as client:
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        await source.wait_ended()  # nothing goes over it any more
        await source.aclose()
        await until(lambda: target.log.count("VUSB: Attached") == 2)
        assert "Remote USB: resumed after" in target.log
        assert client.session.is_connected
        await reset(TARGET, *keyboards)
        assert "Detached" not in source.log + target.log
        assert "its devices are connected to" in client.said()
    await until(lambda: target.log.count("VUSB: Detached") == 2)


async def test_a_client_that_does_not_come_back_stays(
    source: Host, target: Host
) -> None:
    """``--no-reconnect``: its devices go over the source."""
    keyboard = Counting()
    async with plugged(source, keyboard, reconnect=False):
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        await reset(TARGET, keyboard)
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Attached" not in target.log
    await source.wait_ended()


async def test_a_client_believes_no_other_certificate(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, and its devices go over the source."""
    find = RunningMachine._display

    def other(machine: RunningMachine) -> Display:
        return replace(find(machine), certificate=bytes(32))

    monkeypatch.setattr(RunningMachine, "_display", other)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        await until(lambda: "stays: it cannot be reached" in source.log)
        await until(lambda: "another certificate than the one it" in client.said())
        assert "the devices stay connected to" in client.said()
        assert client.session.is_connected
        await reset(TARGET, keyboard)
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Attached" not in target.log
    await source.wait_ended()
