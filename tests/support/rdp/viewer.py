"""A viewer with sound and a clipboard, whose answers the test gives."""

import asyncio
import contextlib
import dataclasses
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from rusb.aio.stream import RdpStream
from rusb.client.config import ClientConfig
from rusb.client.dial import dial, rdp_settings
from rusb.errors import RusbError
from rusb.rdp import events as rdp
from rusb.rdp.channels import ChannelRegistry
from rusb.rdp.client import ClientConnection
from tests.support.rdp.media import (
    LONG_NAMES,
    clip,
    confirmation,
    formats,
    names,
    trained,
)

__all__ = ["CLIPBOARD", "SOUND", "MediaViewer", "until", "viewer"]

SOUND, CLIPBOARD = "rdpsnd", "cliprdr"


async def until(held: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not held():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class MediaViewer:
    """One viewer.

    Attributes:
        heard: messages, by the name of their channel.
        is_lost: the connection is over.
    """

    def __init__(self, config: ClientConfig) -> None:
        settings = rdp_settings(config, ChannelRegistry([]))
        settings = dataclasses.replace(settings, channels=(CLIPBOARD, SOUND))
        self.core = ClientConnection(settings, random_bytes=secrets.token_bytes)
        self.heard: dict[str, list[bytes]] = defaultdict(list)
        self.is_active = self.is_lost = False
        self.names: dict[str, int] = {}
        self.stream: RdpStream

    def handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelOpened():
                self.names[event.name] = event.channel
            case rdp.ChannelData():
                (name,) = (n for n, c in self.names.items() if c == event.channel)
                self.heard[name].append(event.data)
            case rdp.Activated():
                self.is_active = True

    def lost(self, error: RusbError | None) -> None:
        self.is_lost = True

    def say(self, name: str, *messages: bytes) -> None:
        for message in messages:
            self.core.send_channel(self.names[name], message)
        self.stream.flush()

    def kinds(self, name: str) -> list[int]:
        """What was heard on a channel, by the first byte of each message."""
        return [message[0] for message in self.heard[name]]

    async def until_heard(self, name: str, kind: int, count: int = 1) -> bytes:
        """Return the message that is the *count* th of a kind."""

        def found() -> list[bytes]:
            return [m for m in self.heard[name] if m[0] == kind]

        await until(lambda: len(found()) >= count)
        return found()[count - 1]

    async def listen(self, version: int = 8) -> None:
        """Become ready to play."""
        await self.until_heard(SOUND, 7)
        self.say(SOUND, formats(version=version))
        await self.until_heard(SOUND, 6)
        self.say(SOUND, trained())

    def confirm(self, *blocks: int) -> None:
        self.say(SOUND, *map(confirmation, blocks))

    async def share(self, *numbers: int) -> None:
        """Take part in the clipboard; *numbers* are formats of what was copied."""
        await self.until_heard(CLIPBOARD, 1)
        self.say(CLIPBOARD, LONG_NAMES, names(*numbers))
        await self.until_heard(CLIPBOARD, 3)

    def accept_list(self) -> None:
        """Confirm a list of formats."""
        self.say(CLIPBOARD, clip(3, flags=1))


@contextlib.asynccontextmanager
async def viewer(config: ClientConfig) -> AsyncIterator[MediaViewer]:
    """A viewer whose session is active."""
    found = MediaViewer(config)
    found.stream = await dial(
        config,
        found.core,
        on_event=found.handle,
        channels={},
        on_lost=found.lost,
        on_pressure=lambda is_high: None,
        on_trust=lambda event: None,
    )
    try:
        await until(lambda: found.is_active and len(found.names) == 2)
        yield found
    finally:
        found.stream.abort()
