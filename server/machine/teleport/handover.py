"""Clients of ours change over to the host that their machine went to (7.11).

Their devices are relayed first. When nothing is in flight of them, both hosts take the
ends of their streams off the relay, and the target goes on with what the source has.
"""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from rusb.aio.tasks import TaskSet
from rusb.errors import ConnectionLost, RusbError

from ...client_usb import ClientUsb
from ...elsewhere import Elsewhere
from ...moving import MovedClient
from .clients import from_json, to_json
from .link import Link
from .messages import MAX_REASON, Client, Device, Message, NotTaken, Take, Taken
from .relay import Relay
from .seam import Stream, receive

__all__ = ["Handover", "Takeover"]

RECALL_SECONDS: Final = 5.0
"""For what is in flight to come back; else the client stays."""

END_SECONDS: Final = 5.0
"""For the client that is changing over when this host ends."""

TAKEN_SECONDS: Final = 20.0
"""For the target to say whether it has a client."""


class Handover:
    """The source's end.

    Args:
        link: to the target.
        relay: of the devices.
        devices: those that are relayed.
        to: where the machine is now.
        log: writes a line.
    """

    def __init__(
        self,
        link: Link,
        relay: Relay,
        devices: Mapping[str, int],
        to: Elsewhere,
        log: Callable[[str], None],
    ) -> None:
        self._link, self._relay, self._devices = link, relay, devices
        self._to, self._log = to, log
        self._tasks = TaskSet()
        self._one = asyncio.Lock()
        self._is_over = False

    def ready(self, client: ClientUsb) -> None:
        """A client is ready to change over."""
        if self._is_over:
            client.leave(self._to)
        else:
            work = self._hand_over(client)
            self._tasks.start(work, "teleport: a client changes over")

    @property
    def is_busy(self) -> bool:
        """Does a client change over?"""
        return self._one.locked()

    async def aclose(self) -> None:
        """Hand nothing over any more; what is under way ends. Idempotent."""
        self._is_over = True
        await self._tasks.drain(END_SECONDS)

    async def _hand_over(self, client: ClientUsb) -> None:
        """It has said that it can be there; however this ends, it is not left here."""
        numbers: list[int] = []
        is_going = True
        try:
            async with self._one:
                if not await client.recall(RECALL_SECONDS):
                    is_going = False
                    return
                numbers += (self._devices[place] for place in client.places)
                await self._send(client, numbers)
        except (RusbError, OSError) as error:
            self._log(f"Teleporter: a client starts over: {error}")
        except asyncio.CancelledError:  # the target may have it already
            self._log(f"Teleporter: a client goes to {self._to}: this host ends")
            raise
        finally:
            for number in numbers:
                self._relay.drop(number)
            if is_going:
                client.leave(self._to)

    async def _send(self, client: ClientUsb, numbers: list[int]) -> None:
        """Take the streams off the relay, and send what is known of the client.

        Raises:
            RusbError: a device has left meanwhile, or the target; that cannot take the
                client, or too much of it is under way.
        """
        await self._link.send(Take(tuple(numbers)))
        taken = await asyncio.gather(*map(self._relay.take_home, numbers))
        streams = [stream for stream in taken if stream is not None]
        with contextlib.ExitStack() as stack:
            for stream in streams:
                stack.callback(stream.sock.close)
            if len(streams) != len(numbers):
                raise ConnectionLost("one of its devices has left")
            for stream in streams:
                stream.sock.shutdown(socket.SHUT_WR)
            rest = [asyncio.ensure_future(_rest(stream)) for stream in streams]
            try:
                moved = await client.gather()
                found = await asyncio.gather(*rest)
                unsent = dict(zip(client.places, found, strict=True))
            finally:
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)
        devices = tuple(
            dataclasses.replace(one, unsent=unsent[one.place]) for one in moved.devices
        )
        state = to_json(dataclasses.replace(moved, devices=devices))
        await self._link.send(Client(state))  # or there is too much of it
        answer = await self._link.receive_handover(TAKEN_SECONDS)
        if isinstance(answer, NotTaken):
            raise ConnectionLost(f"the target cannot take it: {answer.reason}")


async def _rest(stream: Stream) -> bytes:
    """Return what is still to be carried, up to the end of a stream."""
    parts = [stream.unread]
    while data := await receive(stream.sock):
        parts.append(data)
    return b"".join(parts)


class _Machine(Protocol):
    """What the target's end asks of the machine."""

    def arrive(self, client: MovedClient, streams: Mapping[int, Stream]) -> None:
        """Go on with a client, and with its devices, whose streams end here now.

        Raises:
            RusbError: that cannot be.
        """

    async def unplug(self, number: int) -> None:
        """Take a device out of the guest."""


class Takeover:
    """The target's end.

    Args:
        link: to the source.
        relay: of the devices.
        devices: those that came, by number.
        machine: goes on with clients.
        log: writes a line.

    Attributes:
        has_answered: the source is told what became of a client.
    """

    def __init__(
        self,
        link: Link,
        relay: Relay,
        devices: Mapping[int, Device],
        machine: _Machine,
        log: Callable[[str], None],
    ) -> None:
        self._link, self._relay, self._devices = link, relay, devices
        self._machine, self._log = machine, log
        self._taken: dict[int, asyncio.Task[Stream | None]] = {}
        self.has_answered = False

    async def run(self) -> None:
        """Take what comes, until the link is over, or it is cancelled."""
        try:
            with contextlib.suppress(RusbError):  # the relay says that the link is over
                while True:
                    await self._take(await self._link.receive_handover())
        finally:  # a client whose state has not come begins anew
            for number, task in self._taken.items():
                if not task.cancel():
                    await self._take_out({number: task.result()})

    async def _take(self, message: Message) -> None:
        match message:
            case Take(numbers):
                for number in numbers:
                    if number in self._devices and number not in self._taken:
                        work = self._relay.take_home(number)
                        self._taken[number] = asyncio.ensure_future(work)
            case Client(value):
                taken, self._taken = self._taken, {}
                answer: Message = Taken()
                try:
                    await self._arrive(value, taken)
                except (RusbError, OSError) as error:
                    self._log(f"Teleporter: a client starts over: {error}")
                    answer = NotTaken(str(error)[:MAX_REASON])
                self.has_answered = True
                try:
                    await self._link.send(answer)
                finally:
                    for number, task in taken.items():
                        task.cancel()
                        self._relay.drop(number)

    async def _arrive(
        self, value: object, taken: Mapping[int, asyncio.Task[Stream | None]]
    ) -> None:
        """Go on with a client; devices that are not wanted leave the guest."""
        found = {number: await task for number, task in taken.items()}
        streams = {n: stream for n, stream in found.items() if stream is not None}
        try:
            client = from_json(value)
            places = {device.place for device in client.devices}
            wanted = {
                number: stream
                for number, stream in streams.items()
                if number in self._devices and self._devices[number].id in places
            }
            self._machine.arrive(client, wanted)
            streams = {n: one for n, one in streams.items() if n not in wanted}
        finally:
            await self._take_out(streams)

    async def _take_out(self, streams: Mapping[int, Stream | None]) -> None:
        """Take devices out of the guest, unless they have left."""
        for number, stream in streams.items():
            if stream is not None:
                stream.sock.close()
                await self._machine.unplug(number)
