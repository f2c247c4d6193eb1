"""The requests that a client has of one device, and how long they may take.

rdpeusb.md 6 and 11: numbers, limits, and what becomes of those without an answer.
"""

import itertools
from collections.abc import Callable
from typing import Final, TypeAlias

from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbStatus
from rusb.wire.base import Output, Send

from . import _messages as messages
from . import _urbs as urbs
from ._urbs import Completion, Transfer

__all__ = ["CANCEL_LIMIT", "Done", "RequestTable", "Sent"]

CANCEL_LIMIT: Final = 2.0
"""Seconds for the completion of what was cancelled (11)."""

MAX_EXPIRIES: Final = 3
"""Limits that pass in a row, without a completion in between, end the device."""

_INTERRUPT = TransferType.INTERRUPT


class Sent:
    """A request that the client has: what it asks, and who is told.

    Attributes:
        transfer: as it was sent; None: an IO_CONTROL.
        done: called once with this, a status, and the completion if there is one.
        limit: seconds until it is given up; None: whoever waits gives up.
        is_counted: that it is given up is the client's fault.
        urb: of the guest, if it is one.
        moved: bytes of it that earlier requests have moved.
        is_urgent: it is of an interrupt endpoint: a key does not wait behind a disk.
    """

    __slots__ = (
        *("done", "is_cancelled", "is_counted", "is_urgent", "limit", "moved"),
        *("number", "transfer", "urb"),
    )

    def __init__(
        self,
        transfer: Transfer | None,
        done: "Done",
        limit: float | None,
        urb: Urb | None,
        moved: int = 0,
    ) -> None:
        self.transfer = transfer
        self.done = done
        self.limit = limit
        self.is_counted = urb is None or urb.setup is None
        self.urb = urb
        self.number = 0
        self.moved = moved
        self.is_cancelled = False
        self.is_urgent = urb is not None and urb.type is _INTERRUPT


Done: TypeAlias = Callable[[Sent, UrbStatus, Completion | None], None]


class RequestTable:
    """What is sent to a device, until it completes or is given up.

    Args:
        interface: of the device.
        channel: of the device.
        outputs: where messages go.
        failed: called when it does not answer any more, with the reason.
    """

    def __init__(
        self,
        interface: int,
        channel: int,
        outputs: list[Output],
        failed: Callable[[str], None],
    ) -> None:
        self._interface = interface
        self._channel = channel
        self._outputs = outputs
        self._failed = failed
        self._messages = itertools.count(1)
        self._last = 0
        self._sent: dict[int, Sent] = {}
        self._by_urb: dict[int, list[Sent]] = {}
        self._due: dict[int, float] = {}
        self._unarmed: list[Sent] = []
        self._expiries = 0

    def next_deadline(self) -> float | None:
        """Return when the first limit passes."""
        if self._unarmed:
            return 0.0
        return min(self._due.values()) if self._due else None

    def handle_deadline(self, now: float) -> None:
        """Give up what took too long; too often in a row, and all of it ends."""
        for one in self._unarmed:
            if one.limit is not None and one.number in self._sent:
                self._due[one.number] = now + one.limit
        self._unarmed.clear()
        late = [number for number, due in self._due.items() if due <= now]
        # 2.8: while the client waits for a device it does nothing else
        is_held = any(
            s.urb is not None and s.urb.setup is not None and not s.is_cancelled
            for s in self._sent.values()
        )
        is_counted = False
        for number in late:
            sent = self._sent.get(number)
            if sent is not None:
                is_counted |= sent.is_counted and not is_held
                self._give_up(sent)
        if is_counted:
            self._expiries += 1
            if self._expiries == MAX_EXPIRIES:
                self._failed("it does not answer any more")

    def _give_up(self, sent: Sent) -> None:
        self._forget(sent)
        if sent.is_cancelled:
            sent.done(sent, UrbStatus.CANCELLED, None)
        else:
            if sent.transfer is not None:
                self._cancel(sent)
            sent.done(sent, UrbStatus.TIMEOUT, None)

    def _post(
        self,
        transfer: Transfer,
        done: Done,
        limit: float | None,
        urb: Urb | None = None,
        moved: int = 0,
    ) -> None:
        sent = Sent(transfer, done, limit, urb, moved)
        self._enter(sent)
        transfer.request = sent.number
        number = next(self._messages) & 0xFFFFFFFF
        message = urbs.transfer(self._interface, number, transfer)
        # interrupt transfers before and after what changes the device stay there
        output = Send(self._channel, message, sent.is_urgent, urb is None)
        self._outputs.append(output)

    def _enter(self, sent: Sent) -> None:
        """Give it a number that is not in use."""
        while True:
            self._last = self._last % urbs.MAX_REQUEST + 1
            if self._last not in self._sent:
                break
        sent.number = self._last
        self._sent[sent.number] = sent
        if sent.limit is not None:
            self._unarmed.append(sent)
        urb = sent.urb
        if urb is None:
            return
        if urb.id in self._by_urb:
            self._by_urb[urb.id].append(sent)
        else:
            self._by_urb[urb.id] = [sent]

    def _forget(self, sent: Sent) -> None:
        del self._sent[sent.number]
        if self._due:
            self._due.pop(sent.number, None)
        if sent.urb is not None:
            others = self._by_urb[sent.urb.id]
            if len(others) > 1:
                others.remove(sent)
            else:
                del self._by_urb[sent.urb.id]

    def _cancel(self, sent: Sent) -> None:
        body = messages.CANCEL.pack(sent.number)
        self._call(messages.Call.CANCEL, body, is_urgent=sent.is_urgent)

    def _call(
        self,
        function: messages.Call,
        body: bytes,
        *,
        is_urgent: bool = False,
        is_fence: bool = False,
    ) -> None:
        number = next(self._messages) & 0xFFFFFFFF
        proxy = messages.PROXY
        message = messages.Message(self._interface, proxy, number, function, body)
        output = Send(self._channel, message.serialize(), is_urgent, is_fence)
        self._outputs.append(output)
