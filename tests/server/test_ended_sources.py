"""A host that ends while clients change over from it sends them on all the same."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import follow
from rusb.server.client_usb import ClientUsb
from rusb.server.machine.teleport import handover
from rusb.server.machine.teleport.messages import Client
from rusb.server.remote_devices import RemoteDevices
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    TARGET,
    Counting,
    Host,
    Stubborn,
    hardware,
    move,
    plugged,
    reset,
    running,
    teleport,
    when_sent,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "END_SECONDS", 0.3)


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Host]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host.waiting(tmp_path / "target", hardware(tmp_path))
    display = replace(found.machine.remote_display, enabled=True)
    found.machine.remote_display = display
    async with asyncio.timeout(60), found:
        yield found


async def ends(source: Host) -> None:
    """It does; and leaves nothing that runs."""
    await source.wait_ended()
    await source.aclose()
    left = [t.get_name() for t in asyncio.all_tasks() if "changes over" in t.get_name()]
    assert left == []


async def test_before_the_target_has_answered(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target has all of the client, which goes on there."""
    keyboard = Counting()
    async with Wire(target.port).up() as wire, plugged(source, keyboard) as client:

        def end() -> None:
            wire.hold_answers()
            source.power_off("test")

        when_sent(monkeypatch, Client, end)
        assert (await teleport(wire.port))["error"] == ""
        await ends(source)
        assert "a client goes to 127.0.0.1" in source.log
        await until(lambda: "Remote USB: resumed after" in target.log)
        await reset(TARGET, keyboard)
        assert client.session.is_connected
        assert "Detached" not in target.log
        assert "no longer keeps the devices" not in client.said()


@pytest.mark.parametrize("when", ["at READY", "in the recall"])
async def test_before_anything_has_gone_over(
    when: str, source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target has nothing, and the client begins anew there."""
    monkeypatch.setattr(follow, "MOVE_SECONDS", 60.0)
    of, name = (
        (ClientUsb, "recall") if when == "at READY" else (RemoteDevices, "recall")
    )
    recall = getattr(of, name)

    def end(*args: object) -> object:
        source.power_off("test")
        return recall(*args)

    monkeypatch.setattr(of, name, end)
    keyboard = Stubborn()
    async with plugged(source, keyboard) as client:
        await until(lambda: keyboard.reads)
        await move(target.port)
        await ends(source)
        await until(lambda: "VUSB: Attached" in target.log)
        await reset(TARGET, keyboard)
        await until(lambda: client.session.is_connected)
