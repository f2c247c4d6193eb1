"""What the guest asked of the device side: one answer each, in order (9.1, 12)."""

from collections import deque
from collections.abc import Callable, Collection

from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import CancelRequested, Event, UrbSubmitted

from ._codec import Packet, Type

__all__ = ["MAX_BYTES_PENDING", "MAX_PENDING", "Requests"]

MAX_PENDING = 1024
"""Requests of the guest in flight; QEMU queues some dozens (18). Further ones wait."""

MAX_BYTES_PENDING = 32 << 20
"""What they carry and ask for: thirty-two of the largest that QEMU sends (1 MiB). With
what is queued for a guest that does not read it is what a guest can make us keep."""

_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_NOTHING = UrbResult(UrbStatus.OK)


class _Request:
    """A request of the guest that waits for its answer."""

    __slots__ = ("is_back", "is_held", "is_recalled", "packet", "result", "urb")

    def __init__(self, packet: Packet, urb: Urb) -> None:
        self.packet = packet
        self.urb = urb
        self.result: UrbResult | None = None
        self.is_recalled = self.is_back = self.is_held = False

    @property
    def may_be_recalled(self) -> bool:
        """May it be asked for once more, if it comes back with nothing?"""
        is_read = self.urb.setup is None and self.urb.is_in
        return is_read and self.result is None


class _Order(deque[int]):
    """URB ids of the bulk requests at an endpoint.

    Attributes:
        most: how many of them the guest keeps there, as far as it was seen.
    """

    __slots__ = ("most",)

    def __init__(self) -> None:
        super().__init__()
        self.most = 0


class Requests:
    """The requests in flight.

    Args:
        emit: takes an event.

    Attributes:
        device: id of the device in events.
        bytes: what the requests carry and ask for.
        due: packets with what they are to be answered with, in order; the caller
            clears it.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.device = 0
        self.bytes = 0
        self.due: list[tuple[Packet, UrbResult]] = []
        self._emit = emit
        self._was_full = self._is_recalled = False
        self._suspended: Collection[int] = ()
        self._is_holding = False
        self._requests: dict[int, _Request] = {}  # by urb id
        self._by_guest: dict[int, int] = {}  # the guest's id to urb id
        self._cancelled: dict[int, int] = {}  # likewise, of what it cancelled
        self._order: dict[int, _Order] = {}  # bulk: by endpoint

    def is_full(self) -> bool:
        """Is too much in flight? From then on until half of it is done."""
        share = 2 if self._was_full else 1
        self._was_full = (
            len(self._requests) * share >= MAX_PENDING
            or self.bytes * share >= MAX_BYTES_PENDING
        )
        return self._was_full

    def waiting_reads(self, but: Collection[int]) -> int:
        """How many bulk reads wait at the IN endpoint that has most of them?

        Args:
            but: addresses of endpoints that do not count.
        """
        ends = (end for end in self._order if end & 0x80 and end not in but)
        return max((len(self._order[end]) for end in ends), default=0)

    def is_in_flight(self, guest_id: int) -> bool:
        """Is there a request with this id, and not cancelled?"""
        return guest_id in self._by_guest

    def submit(self, packet: Packet, urb: Urb) -> None:
        """Pass a request on to the device."""
        if (before := self._cancelled.get(packet.id)) is not None:
            self._abort(before)  # the guest takes the first answer for the old one
        self._requests[urb.id] = _Request(packet, urb)
        self.bytes += urb.length
        self._by_guest[packet.id] = urb.id
        if packet.type == Type.BULK:
            order = self._order.get(urb.endpoint)
            if order is None:
                order = self._order[urb.endpoint] = _Order()
            order.append(urb.id)
            if len(order) > order.most:
                order.most = len(order)
            if urb.endpoint in self._suspended:
                if self._is_holding:
                    self._requests[urb.id].is_held = True
                else:
                    self.complete(urb.id, _NOTHING)
                return
        self._emit(UrbSubmitted(self.device, urb))

    def complete(self, urb_id: int, result: UrbResult) -> None:
        """Answer with what the device says, when its turn has come (9.1)."""
        request = self._requests.get(urb_id)
        if request is None:
            return  # cancelled
        if request.is_recalled and result.status is UrbStatus.CANCELLED:
            request.is_recalled = False
            is_suspended = request.urb.endpoint in self._suspended
            if not result.length and is_suspended and self._is_holding:
                request.is_held = True
                return
            if not result.length and not is_suspended:
                request.is_back = True
                if not self._is_recalled:
                    self.ask_again()
                return
            result = UrbResult(UrbStatus.OK, result.data, result.length)
        request.result = result
        packet = request.packet
        if packet.type != Type.BULK or self._cancelled.get(packet.id) == urb_id:
            self._finish(urb_id, request, result)
        else:
            self._flush(packet)

    def recall(self) -> None:
        """Have reads that wait for the device come back, the last first, so that what
        it says meanwhile comes with the first; all others end as ever."""
        self._is_recalled = True
        self._recall(lambda urb: True)

    def suspend(self, endpoints: Collection[int]) -> None:
        """Have bulk reads at these endpoints come back likewise; until no endpoints are
        named.

        One that has brought something is answered with that. Others are held, and so
        are further ones, until :meth:`release` is called.
        """
        self._suspended, self._is_holding = endpoints, bool(endpoints)
        self._recall(lambda urb: urb.endpoint in endpoints)
        if not endpoints:
            for request in self._requests.values():
                if request.is_held:
                    request.is_held = False
                    self._emit(UrbSubmitted(self.device, request.urb))

    @property
    def is_held(self) -> bool:
        """Are all reads held that the guest keeps at the endpoints of :meth:`suspend`?

        One that keeps several reads again for each that was answered, a little later.
        """
        orders = self._suspended_orders()
        is_any_missing = any(len(order) < order.most > 1 for order in orders)
        return not is_any_missing and self.held is not None

    @property
    def held(self) -> int | None:
        """How many reads are held there? None: some are still at the device."""
        ids = [urb_id for order in self._suspended_orders() for urb_id in order]
        return len(ids) if all(self._requests[i].is_held for i in ids) else None

    def keeps_no_more(self) -> None:
        """The guest keeps no more reads there than wait now."""
        for order in self._suspended_orders():
            order.most = len(order)

    def _suspended_orders(self) -> list[_Order]:
        return [self._order[end] for end in self._suspended if end in self._order]

    def release(self) -> None:
        """Answer with nothing what is held, and all further reads."""
        self._is_holding = False
        for order in self._suspended_orders():
            for urb_id in list(order):
                self._finish(urb_id, self._requests[urb_id], _NOTHING)

    def _recall(self, is_meant: Callable[[Urb], bool]) -> None:
        for urb_id, request in list(reversed(self._requests.items())):
            is_wanted = request.packet.id in self._by_guest and is_meant(request.urb)
            if is_wanted and request.may_be_recalled and not request.is_recalled:
                request.is_recalled = True
                self._emit(CancelRequested(self.device, urb_id))

    @property
    def is_back(self) -> bool:
        """Is nothing at the device any more?"""
        return all(request.is_back for request in self._requests.values())

    def taken_back(self) -> list[Packet]:
        """Return what :meth:`recall` had come back, as the guest asked for it."""
        return [request.packet for request in self._requests.values()]

    def ask_again(self) -> None:
        """Pass on once more what has come back, or will."""
        self._is_recalled = False
        for request in self._requests.values():
            if request.is_back:
                request.is_back = False
                self._emit(UrbSubmitted(self.device, request.urb))

    def cancel(self, guest_id: int) -> None:
        """Answer exactly once (12): with what the device has moved until it stops.

        From now on the id may be used again, and later requests do not wait.
        """
        urb_id = self._by_guest.get(guest_id)
        if urb_id is None:
            return
        request = self._requests[urb_id]
        packet = request.packet
        if packet.type not in (Type.CONTROL, Type.BULK, Type.INTERRUPT):
            return
        del self._by_guest[guest_id]
        self._cancelled[guest_id] = urb_id
        if packet.type == Type.BULK:
            order = self._order[packet.fields[0]]
            order.remove(urb_id)
            order.most = len(order)  # the guest keeps fewer now
        if request.is_held:
            self._finish(urb_id, request, _CANCELLED)
        elif request.result is None:
            self._emit(CancelRequested(self.device, urb_id))
        else:  # it is done, and only waited for its turn
            self._finish(urb_id, request, request.result)
        self._flush(packet)

    def abort_at(self, endpoints: list[int]) -> None:
        """Answer what is in flight at these endpoints with cancelled, at once."""
        for urb_id, request in list(self._requests.items()):
            if urb_id not in self._requests:
                continue  # it waited for its turn and was answered with one before
            packet = request.packet
            if packet.type in (Type.BULK, Type.INTERRUPT) and (
                packet.fields[0] in endpoints
            ):
                self._abort(urb_id)
        for address in endpoints:
            self._order.pop(address, None)

    def abort_all(self) -> None:
        """Answer everything with cancelled, at once."""
        for urb_id, request in list(self._requests.items()):
            self._finish(urb_id, request, _CANCELLED)
            self._emit(CancelRequested(self.device, urb_id))
        self._order.clear()  # what drives the device next keeps as many as it likes

    def forget_all(self) -> None:
        """Cancel everything and answer nothing."""
        self._suspended = ()
        for urb_id in self._requests:
            self._emit(CancelRequested(self.device, urb_id))
        self._requests.clear()
        self._by_guest.clear()
        self._cancelled.clear()
        self._order.clear()
        self.bytes = 0

    def _abort(self, urb_id: int) -> None:
        request = self._requests[urb_id]
        if self._cancelled.get(request.packet.id) != urb_id:
            self._emit(CancelRequested(self.device, urb_id))
        self._finish(urb_id, request, _CANCELLED)
        self._flush(request.packet)

    def _flush(self, packet: Packet) -> None:
        """Answer what has its result and need not wait for another any more."""
        order = self._order.get(packet.fields[0]) if packet.type == Type.BULK else None
        while order:
            request = self._requests[order[0]]
            if request.result is None:
                return
            self._finish(order[0], request, request.result)

    def _finish(self, urb_id: int, request: _Request, result: UrbResult) -> None:
        packet = request.packet
        del self._requests[urb_id]
        self.bytes -= request.urb.length
        if self._cancelled.get(packet.id) == urb_id:
            del self._cancelled[packet.id]
        else:
            self._by_guest.pop(packet.id, None)  # a setting may have taken its place
            if packet.type == Type.BULK:
                self._order[packet.fields[0]].remove(urb_id)
        self.due.append((packet, result))
