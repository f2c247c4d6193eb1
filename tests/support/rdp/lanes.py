"""Two ends of a channel that outlives its connections, joined in memory."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from rusb.rdp.channels import ChannelHandler
from rusb.rdp.events import ChannelData, Event
from rusb.rdp.lane import Lane
from rusb.rdp.rusbext import RUSBEXT, Ack, parse
from tests.support.rdp.joined import Joined, clear

USB = "vrdpusb"


class NoTimer:
    """What a timer gives back."""

    def cancel(self) -> None:
        pass


class End:
    """One end: its lane, and what has arrived.

    Args:
        window: see :class:`Lane`.
    """

    def __init__(self, window: int = 1 << 20) -> None:
        self.got: list[bytes] = []
        self.messages = 0
        self.full: list[bool] = []
        self.due: list[Callable[[], object]] = []
        self.lane = Lane(window=window, later=self._later, on_full=self.full.append)
        self.carry(self.lane.send, self.lane.flush)
        self.lane.serve(self)

    def _later(self, delay: float, callback: Callable[[], object]) -> NoTimer:
        self.due.append(callback)
        return NoTimer()

    def send(
        self, data: bytes, *, is_urgent: bool = False, is_fence: bool = False
    ) -> None:
        channel = self.lane.channel
        self._send(channel, data, flow=0, is_urgent=is_urgent, is_fence=is_fence)

    def carry(self, send: Callable[..., None], flush: Callable[[], None]) -> None:
        self._send = send

    def serve(self, way: ChannelHandler) -> None:
        self.way = way

    def received(self, channel: int, data: bytes) -> None:
        self.messages += 1
        self.got.append(data)

    def finished(self) -> None:
        """What has come is there already."""

    def run_timers(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Line:
    """A client's and a server's end over one connection after another."""

    def __init__(self, client: End, server: End) -> None:
        self.client, self.server = client, server
        self.replays = 0
        self.joined: Joined
        self._channels: tuple[int, int]

    def connect(
        self, *, room: float | None = None, channels: tuple[str, ...] = (USB, RUSBEXT)
    ) -> None:
        """Dial: agree on the counts, as RESUME and RESUMED do."""
        for end in (self.client, self.server):
            end.lane.unbind()
        ours, theirs = clear()
        self.joined = joined = Joined(
            replace(ours, channels=channels), replace(theirs, channels=channels)
        )
        joined.run()
        pair = joined.client.find_channel(USB), joined.client.find_channel(RUSBEXT)
        assert pair[0] is not None
        assert pair[1] is not None
        self._channels = pair[0], pair[1]
        if room is not None:
            joined.client.room = joined.server.room = room
        theirs_got = self.server.lane.received
        ours_got = self.client.lane.received
        assert self.server.lane.can_resume(ours_got)
        assert self.client.lane.can_resume(theirs_got)
        for end, core, got in (
            (self.server, joined.server, ours_got),
            (self.client, joined.client, theirs_got),
        ):
            end.lane.bind(
                *(core, *self._channels, lambda: None, end.serve), received=got
            )
            self.replays += end.lane.replayed

    def move(
        self, limit: int | None = None, *, rng: random.Random | None = None
    ) -> int:
        """Carry bytes both ways; at most *limit* of them, and the rest is lost.

        Returns:
            How many were carried.
        """
        moved = 0
        joined = self.joined
        while True:
            sent = 0
            ways = [
                (joined.client, joined.server, self.server),
                (joined.server, joined.client, self.client),
            ]
            if rng is not None:
                rng.shuffle(ways)
            for source, target, end in ways:
                data = b"".join(source.data_to_send())
                sent += len(data)
                if limit is not None:
                    data = data[: limit - moved]
                moved += len(data)
                target.receive_data(data)
                self.arrived(target.events(), is_client=end is self.client)
                if limit is not None and moved >= limit:
                    return moved
            if not sent:
                return moved

    def arrived(self, events: Iterable[Event], *, is_client: bool = True) -> None:
        """Hand out what has come at one of the ends."""
        end = self.client if is_client else self.server
        for event in events:
            if isinstance(event, ChannelData):
                self._arrived(end, event)

    def _arrived(self, end: End, event: ChannelData) -> None:
        if event.channel == self._channels[0]:
            end.way.received(event.channel, event.data)
        else:
            found = parse(event.data)
            assert isinstance(found, Ack)
            end.lane.acknowledged(found.received)
