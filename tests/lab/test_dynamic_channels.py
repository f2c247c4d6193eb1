"""Dynamic channels with a client of others: FreeRDP, whose ECHO says all again.

What it takes and sends is cut and joined by code that is not ours.
"""

import asyncio
import random
import secrets
from pathlib import Path

import pytest

from rusb.aio.stream import RdpStream, TlsUpgrade
from rusb.aio.tls import make_self_signed, server_context
from rusb.rdp import events as rdp
from rusb.rdp.channels import DRDYNVC, ChannelLimits
from rusb.rdp.server import ServerConnection, ServerSettings
from tests.support.lab.peers import Display, Program

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("programs")]

ECHO, USB = "ECHO", "URBDRC"
DISPLAY = "Microsoft::Windows::RDS::DisplayControl"
SIZES = (1, 1590, 1597, 1598, 1599, 1600, 4000, 70_000)


class EchoServer:
    """Opens three channels, and sends messages on one of them as soon as it has it."""

    def __init__(self, folder: Path) -> None:
        limits = dict.fromkeys((ECHO, USB, DISPLAY), ChannelLimits(1 << 20))
        settings = ServerSettings(channels=(DRDYNVC,), dynamic=limits)
        self.core = ServerConnection(settings, random_bytes=secrets.token_bytes)
        self.stream = RdpStream(
            self.core,
            on_event=self._handle,
            on_lost=lambda error: self.over.set(),
            tls=TlsUpgrade(server_context(*make_self_signed(folder), None)),
        )
        self.messages = [random.Random(size).randbytes(size) for size in SIZES]
        self.opened: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.heard: list[bytes] = []
        self.over = asyncio.Event()

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.LogonRequested():
                self.core.accept_logon()
            case rdp.DynamicReady():
                for name in (USB, DISPLAY, ECHO):
                    self.core.open_channel(name)
            case rdp.ChannelRefused(name, status):
                self.refused[name] = status
            case rdp.ChannelOpened(channel, name, is_dynamic=True):
                self.opened[name] = channel
                if name == ECHO:
                    for message in self.messages:
                        self.core.send_channel(channel, message)
            case rdp.ChannelData(channel, data) if channel == self.opened.get(ECHO):
                self.heard.append(data)
                if len(self.heard) == len(SIZES):
                    self.core.close_channel(channel)
            case rdp.Ignored(reason) if "not open" in reason:  # it answers our close
                self.core.disconnect(1)
                self.stream.close()


async def test_freerdp_says_everything_again(tmp_path: Path) -> None:
    server = EchoServer(tmp_path)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: server.stream, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    command = ["xfreerdp", f"/v:127.0.0.1:{port}", "/u:u", "/p:p", "/cert:ignore"]
    with Display(tmp_path) as display:
        options = ["/echo", "/dynamic-resolution"]
        with Program([*command, *options], tmp_path, display.name) as program:
            async with asyncio.timeout(60), listener:
                await server.over.wait()
            said = program.said()
    assert server.heard == server.messages, said
    assert set(server.opened) == {ECHO, DISPLAY}
    assert list(server.refused) == [USB]  # it was given no device
    assert server.refused[USB] < 0
