"""A program's own mistakes: they are logged, and a session goes on."""

import asyncio
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server import ServerConfig, serve
from rusb.server.guests.loopback import LoopbackGuest
from tests.support.whole_path import machine


async def test_callbacks_that_raise_keep_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def fail(what: object) -> None:
        asked.append(type(what).__name__)
        raise BrokenPipeError("nobody reads this")

    guest, backend = LoopbackGuest(), EmulatedBackend(devices=[Keyboard()])
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=tmp_path / "VBox.log",
        state=tmp_path,
    )
    async with asyncio.timeout(20), serve(config, guest=guest, report=fail) as server:
        client = ClientConfig("127.0.0.1", server.port, known_servers=tmp_path / "k")
        async with connect(client, backends=[backend], on_event=fail) as session:
            await guest.wait_for(1)
            assert [device.is_open for device in session.devices] == [True]
        await guest.wait_for(0)
    wanted = {"CertificateTrusted", "DeviceOffered", "DeviceOpened", "DeviceClosed"}
    assert {*wanted, "str"} <= set(asked)
    messages = [record.getMessage() for record in caplog.records]
    assert any(m.startswith("on_event failed: First connection") for m in messages)
    assert any(m.startswith("report failed: client 1: ") for m in messages)
    assert "bug" not in " ".join(messages)
