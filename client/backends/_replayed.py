"""A device that answers as one did in a capture."""

import asyncio
import contextlib
import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial

from rusb.errors import ParseError
from rusb.usb.bulk_only import BulkOnly
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.types import DescriptorType, Request, Speed, TransferType

from ._bulk_only_player import BulkOnlyPlayer
from ._capture import CapturedDevice, CapturedTransfer
from ._emulated.core import Data, EmulatedDevice

__all__ = ["ReplayedDevice"]

log = logging.getLogger(__name__)

_STALL = -32
_CHANGES = {
    (0x00, Request.SET_CONFIGURATION),
    (0x01, Request.SET_INTERFACE),
    (0x00, Request.SET_ADDRESS),
    (0x00, Request.CLEAR_FEATURE),
    (0x00, Request.SET_FEATURE),
    (0x02, Request.CLEAR_FEATURE),
    (0x02, Request.SET_FEATURE),
    (0x80, Request.GET_CONFIGURATION),
    (0x81, Request.GET_INTERFACE),
    (0x82, Request.GET_STATUS),
}
"""Requests that are answered by what is selected, not as they were in the capture."""

_SIZES = {TransferType.BULK: 512, TransferType.INTERRUPT: 64}
_MAX_COMPLAINTS = 100

_Key = tuple[bytes, bytes]  # the first six bytes of SETUP, OUT data


class _Incoming:
    """What one IN endpoint brings, in order.

    Attributes:
        transfers: what is left; each with the number of OUT transfers before it.
        is_open: the pause before the next one is over.
        timer: it runs.
    """

    def __init__(self) -> None:
        self.transfers: deque[tuple[int, CapturedTransfer]] = deque()
        self.is_open = False
        self.timer: asyncio.TimerHandle | None = None
        self.last = 0.0  # when the previous one ended in the capture


class ReplayedDevice(EmulatedDevice):
    """Answers from a capture (spec/captures.md, 2).

    Args:
        captured: what was seen of the device.
        speed: how many times faster interrupt transfers come; 0: at once.

    Raises:
        ParseError: the capture does not have what it takes.
    """

    def __init__(self, captured: CapturedDevice, speed: float = 1.0) -> None:
        self._transfers = captured.transfers
        self._answers: dict[_Key, list[CapturedTransfer]] = defaultdict(list)
        self._descriptors: dict[bytes, bytes] = {}  # longest answer, by request
        cut = sum(t.is_cut for t in captured.transfers)
        if cut:
            raise ParseError(
                f"the data of {cut} transfers are not in the file, or not whole;"
                " capture it again with all data"
            )
        self._learn_requests()
        described = self._described(captured.transfers)
        super().__init__(described, self._texts(), speed=_speed_of(described))
        self._rate = speed
        self._out = (
            0  # transfers that the host has sent to bulk and interrupt endpoints
        )
        self._incoming: dict[int, _Incoming] = defaultdict(_Incoming)
        self._packets: dict[int, deque[bytes]] = defaultdict(deque)
        self._disks: dict[int, BulkOnlyPlayer] = {}  # by both endpoints
        self._complaints = 0

    # ------------------------------------------------------------- the capture ----

    def power_on(self) -> None:
        """Begin anew, with the first answers."""
        self._learn_requests()
        self._learn_disks()
        self._learn_data()
        super().power_on()

    def _learn_requests(self) -> None:
        self._answers.clear()
        for transfer in self._transfers:
            if transfer.setup is not None:
                self._learn(transfer, transfer.setup)

    def _learn(self, transfer: CapturedTransfer, setup: SetupPacket) -> None:
        key = setup.serialize()[:6], transfer.sent
        if transfer.status in (0, _STALL):
            self._answers[key].append(transfer)
        if setup.request_type == 0x80 and setup.request == Request.GET_DESCRIPTOR:
            before = self._descriptors.get(key[0], b"")
            if len(transfer.received) > len(before):
                self._descriptors[key[0]] = transfer.received

    def _descriptor(self, kind: int, index: int = 0, language: int = 0) -> bytes:
        setup = SetupPacket.get_descriptor(kind, index, 0, language)
        return self._descriptors.get(setup.serialize()[:6], b"")

    def _described(self, transfers: list[CapturedTransfer]) -> DeviceDescriptors:
        device = DeviceDescriptor.parse(self._descriptor(DescriptorType.DEVICE), [])
        found = []
        for index in range(device.num_configurations):
            data = self._descriptor(DescriptorType.CONFIGURATION, index)
            total = int.from_bytes(data[2:4], "little")
            if len(data) < max(total, 9):
                break
            found.append(ConfigurationDescriptor.parse(data, []))
        return DeviceDescriptors(device, tuple(found) or (_guessed(transfers),))

    def _texts(self) -> list[str]:
        """The strings, for lists; those of the first language."""
        try:
            (language, *_) = parse_languages(self._descriptor(DescriptorType.STRING))
        except (ParseError, ValueError):
            return []
        texts = dict[int, str]()
        for head, data in self._descriptors.items():
            if head[3] == DescriptorType.STRING and head[4:] == language.to_bytes(
                2, "little"
            ):
                with contextlib.suppress(ParseError):
                    texts[head[2]] = parse_string(data)
        return [texts.get(index, "") for index in range(1, 1 + max(texts, default=0))]

    def _learn_disks(self) -> None:
        self._disks.clear()
        for configuration in self.descriptors.configurations:
            for interface in configuration.interfaces:
                function = BulkOnly.of(interface)
                if function is None or function.incoming in self._disks:
                    continue
                player = BulkOnlyPlayer(
                    function,
                    self._transfers,
                    partial(self.send, function.incoming),
                    self._complain,
                )
                self._disks[function.incoming] = self._disks[function.outgoing] = player

    def _learn_data(self) -> None:
        self._stop()
        self._incoming.clear()
        self._packets.clear()
        self._out = sent = 0
        for transfer in self._transfers:
            if transfer.kind is TransferType.CONTROL:
                continue
            if not transfer.is_in:
                sent += transfer.kind is not TransferType.ISOCHRONOUS
            elif transfer.kind is TransferType.ISOCHRONOUS:
                self._packets[transfer.endpoint] += transfer.packets
            elif transfer.received or transfer.status in (0, _STALL):
                self._incoming[transfer.endpoint].transfers.append((sent, transfer))

    # ------------------------------------------------------------------- hooks ----

    def request(self, setup: SetupPacket, data: Data) -> Data | None:
        """As it was answered; the last answer repeats."""
        if (setup.request_type, setup.request) in _CHANGES:
            return super().request(setup, data)
        head = setup.serialize()[:6]
        answers = self._answers.get((head, bytes(data)))
        if not answers:
            found = super().request(setup, data) if setup.is_standard else None
            if found is None:
                self._complain(f"the request {setup.serialize().hex()}")
            return found
        same = [a for a in answers if a.wanted == setup.length] or answers
        answer = same[0]
        if len(same) > 1:
            answers.remove(answer)
        if answer.status:
            return None
        return self._descriptors.get(head) or answer.received

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Take what the host sends; what comes behind it may come now."""
        if endpoint in self._disks:
            self._disks[endpoint].take(bytes(data))
            return True
        self._out += 1
        for address in self._incoming:
            asyncio.get_running_loop().call_soon(self.kick, address)
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """The next that the endpoint brought, when it is time."""
        incoming = self._incoming[endpoint]
        if endpoint in self._disks or not incoming.transfers:
            return None
        after, transfer = incoming.transfers[0]
        if after > self._out or not self._is_time(endpoint, incoming, transfer):
            return None
        incoming.transfers.popleft()
        incoming.is_open, incoming.last = False, transfer.ended
        if transfer.status == _STALL:
            self.halt(endpoint)
            return transfer.received or None
        size = self.state.endpoints[endpoint].packet_size or 1
        is_short = len(transfer.received) < transfer.wanted
        if transfer.received and is_short and not len(transfer.received) % size:
            self._end_with_zero(endpoint, transfer)
        return transfer.received

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """The packets in their order, then silence."""
        left = self._packets[endpoint]
        return [(left.popleft() if left else b"")[:length] for length in lengths]

    def was_reset(self) -> None:
        """Commands that were under way are forgotten; what comes next stays next."""
        for disk in self._disks.values():
            disk.was_reset()

    def detached(self) -> None:
        """It was unplugged."""
        self._stop()

    # ----------------------------------------------------------------- our own ----

    def _stop(self) -> None:
        for incoming in self._incoming.values():
            if incoming.timer is not None:
                incoming.timer.cancel()
                incoming.timer = None

    def _end_with_zero(self, endpoint: int, transfer: CapturedTransfer) -> None:
        """The transfer was short and ended with an empty packet."""
        empty = CapturedTransfer(transfer.kind, endpoint, None, 0, b"")
        empty.began = empty.ended = transfer.ended
        self._incoming[endpoint].transfers.appendleft((0, empty))

    def _is_time(
        self, endpoint: int, incoming: _Incoming, transfer: CapturedTransfer
    ) -> bool:
        """Reports come at the distance that they had; others at once."""
        if transfer.kind is not TransferType.INTERRUPT or not self._rate:
            return True
        if incoming.is_open:
            return True
        if incoming.timer is None:
            before = incoming.last or transfer.began
            pause = max(0.0, transfer.ended - before) / self._rate
            loop = asyncio.get_running_loop()
            incoming.timer = loop.call_later(pause, self._open, endpoint, incoming)
        return False

    def _open(self, endpoint: int, incoming: _Incoming) -> None:
        incoming.timer, incoming.is_open = None, True
        self.kick(endpoint)

    def _complain(self, what: str) -> None:
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            log.warning("replay: %s is not in the capture", what)


def _guessed(transfers: list[CapturedTransfer]) -> ConfigurationDescriptor:
    """A configuration with the endpoints that were used, where none was captured."""
    seen = {
        t.endpoint: t.kind for t in transfers if t.kind in _SIZES and t.endpoint & 0x0F
    }
    endpoints = tuple(
        EndpointDescriptor(address, kind.value, _SIZES[kind], 4)
        for address, kind in sorted(seen.items())
    )
    interface = InterfaceDescriptor(0, 0, 0xFF, 0xFF, 0xFF, 0, endpoints)
    return ConfigurationDescriptor(1, 0x80, 50, (interface,))


def _speed_of(described: DeviceDescriptors) -> Speed:
    """The speed, by what only that has; captures do not tell."""
    ends = [
        e
        for configuration in described.configurations
        for interface in configuration.interfaces
        for e in interface.endpoints
    ]
    if described.device.bcd_usb >= 0x0300 and any(e.companion for e in ends):
        return Speed.SUPER
    if any(e.packet_size > 64 for e in ends if e.attributes & 3 != 1):
        return Speed.HIGH
    return Speed.FULL
