"""What a session makes of the lists a client sends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard, Loopback
from rusb.filters.model import Filter
from rusb.server import remote_devices
from rusb.server.display.viewer import FIRST_PICTURE
from rusb.server.remote_devices import RemoteDevices
from tests.support.whole_path import Lab, machine, sessions_of


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    found = Lab(tmp_path, machine())
    async with asyncio.timeout(20), found.server:
        yield found


def only(lab: Lab) -> RemoteDevices:
    (session,) = sessions_of(lab.server)
    (devices,) = session.usb.devices
    return devices


async def test_devices_belong_to_the_server_until_they_are_detached(lab: Lab) -> None:
    host = lab.server._host
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        (session,) = sessions_of(lab.server)
        protocol = only(lab).protocol
        assert host.devices_of(session.number, protocol) is only(lab)
    await lab.guest.wait_for(0)
    await session.wait_ended()
    assert host.devices_of(session.number, protocol) is not session.usb.devices[0]


async def test_another_device_with_the_same_id_is_a_swap(lab: Lab) -> None:
    """S7: the one is unplugged, the other plugged in."""
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        devices = only(lab)
        (device,) = devices._listed.values()
        other = replace(device.info, product_id=0x0099, product="Other")
        devices._update((other,))
        await lab.wait_log("Remote USB: ++++ Vendor 1209. Product 0099.")
        log = lab.log()
        gone = log.index("Remote USB: ---- Vendor 1209. Product 0004.")
        assert gone < log.index("VUSB: Detached 'usb-1")
        assert log.index("VUSB: Detached 'usb-1") < log.index(
            "++++ Vendor 1209. Product 0099"
        )


async def test_the_same_device_in_other_words_stays(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (before,) = await lab.guest.wait_for(1)
        devices = only(lab)
        (device,) = devices._listed.values()
        devices._update((replace(device.info, product="LOOPBACK"),))
        await asyncio.sleep(0.05)
        assert list(lab.guest.devices.values()) == [before]


async def test_plugging_in_without_end_ends_the_connection(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_devices, "MAX_PLUGS", 20)
    async with lab.client(EmulatedBackend(devices=[Keyboard()])):
        await lab.guest.wait_for(1)
        devices = only(lab)
        (device,) = devices._listed.values()
        for number in range(100):
            devices._update((replace(device.info, serial=f"{number}"),))
        await lab.wait_log("plugged in more than 20 devices within 10 s")
        await lab.wait_log("Connection closed: 1")
        while lab.log().count("----") < lab.log().count("++++"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert lab.log().count("++++") <= 20


async def test_filters_that_change_apply_at_once(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback(), Keyboard()])):
        await lab.guest.wait_for(2)
        lab.server.set_filters([Filter(name="no keyboards", product="Loop*")])
        (left,) = await lab.guest.wait_for(1)
        assert left.strings["product"] == "Loopback"
        assert "1209:0002 rusb Keyboard: refused: filter 0" in lab.log()
        lab.server.set_filters([])
        await lab.guest.wait_for(0)
        lab.server.set_filters([Filter(name="all")])
        await lab.guest.wait_for(2)
    assert lab.log().count("++++") == 2  # they were plugged in once
    assert lab.log().count("VUSB: Attached") == 4


async def test_a_client_without_a_window_is_spared_the_pictures(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        await asyncio.sleep(FIRST_PICTURE + 0.1)
        (session,) = sessions_of(lab.server)
        assert session.stream.bytes_sent < 10_000
