"""One remote device in use: descriptors, URB table, standard requests, detach.

It stands between a guest backend, which talks to it like a host controller
(:class:`~rusb.server.guests.base.AttachedDevice`), and the wire towards the client.
"""

import asyncio
import errno
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from rusb.errors import GuestError, ParseError, RusbError
from rusb.oserrors import reason
from rusb.usb.backend import DeviceCalls
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.hiding import is_masked, is_of_device
from rusb.usb.polling import RoundTrip
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.types import (
    ClassCode,
    DescriptorType,
    Feature,
    Recipient,
    Request,
    TransferType,
)
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from .moving import AttachmentState
from .policy import SHOWS_ELSE, Policy, Reading, View, describe_identity
from .reading import DEVICE_SIZE, DescriptorReader
from .stand_in import StandIn

__all__ = ["MAX_BYTES_BESIDE", "MAX_BYTES_IN_FLIGHT", "Attachment", "why_failed"]

log = logging.getLogger(__name__)

MAX_URBS_IN_FLIGHT = 512
"""Per device. An xHCI guest queues a few dozen; above it we stop reading the guest."""

MAX_BYTES_IN_FLIGHT = 32 << 20
"""Per device: thirty-two URBs of the largest size that guests use (1 MiB)."""

MAX_BYTES_BESIDE = 1 << 20
"""The same while the client reads too slowly: it is what other devices send that waits,
so one with less than this goes on. The largest transfer of a USB 3 disk."""

DESCRIPTOR_TIMEOUT = 5.0
"""Seconds for one attempt, as VirtualBox reads descriptors (vrdpusb.md 2.4)."""

MAX_SAID = 64
"""Answers of a device that are remembered: its strings, mostly."""

_OK = UrbStatus.OK
_DONE = UrbResult(_OK)
_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_STALL = UrbResult(UrbStatus.STALL)
_GONE = UrbResult(UrbStatus.NO_DEVICE)
_INVALID = UrbResult(UrbStatus.INVALID)
_FAILED = UrbResult(UrbStatus.IO_ERROR)

_ANSWERS = (UrbStatus.OK, UrbStatus.STALL)
"""What a control transfer completes with when the device has said it."""

_Request: TypeAlias = Callable[[int], None]

_JUDGED = frozenset(
    (
        DescriptorType.DEVICE,
        DescriptorType.CONFIGURATION,
        DescriptorType.OTHER_SPEED_CONFIGURATION,
    )
)
"""Descriptors that the guest does not get from the device itself."""

_REMEMBERED = frozenset((Request.GET_DESCRIPTOR, Request.GET_STATUS))
"""Requests whose answers are kept."""

_GET_DEVICE_ID = 0xA1, 0
"""Request type and request of a printer's GET_DEVICE_ID."""

_CHANGING: dict[int, int | None] = {
    Request.SET_ADDRESS: 0x00,
    Request.SET_DESCRIPTOR: None,
    Request.SET_CONFIGURATION: 0x00,
    Request.SET_INTERFACE: 0x01,
}
"""Requests that change what a device is, and the bmRequestType in which they are
answered here. Many devices look at bRequest only and would obey any other."""


def why_failed(error: Exception, seconds: float) -> str:
    """Say in one sentence why something of a device failed; log what is a bug.

    Args:
        error: what it ended with.
        seconds: the time it had.
    """
    match error:
        case RusbError():
            return str(error)
        case TimeoutError():
            return f"it was not finished within {seconds:g} s"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return (
                "too many open files; raise the limit (ulimit -n, or LimitNOFILE of"
                " systemd)"
            )
        case OSError():
            return reason(error)
    log.error("a bug while attaching a device", exc_info=error)
    return f"internal error: {error!r}"


class Attachment:
    """A device of one client, opened for the guest; see AttachedDevice.

    Args:
        info: what the client announced.
        name: unique among everything attached to the guest, ``usb-3``.
        number: likewise unique; becomes ``info.id``.
        core: the wire towards the client, or what stands for it.
        flush: sends what the core has to send.
        now: monotonic seconds.
        way: how long it is to the client; its other devices share that.

    Attributes:
        own_ids: gives numbers of URBs that are not the guest's.
    """

    def __init__(
        self,
        info: DeviceInfo,
        *,
        name: str,
        number: int,
        core: DeviceCalls,
        flush: Callable[[], None],
        now: Callable[[], float],
        way: RoundTrip | None = None,
    ) -> None:
        self.wire_id = info.id
        self.info = replace(info, id=number)
        self.name = name
        self.descriptors = DeviceDescriptors(
            DeviceDescriptor(0, 0, 0, 0, 0, 0, 0, 0), ()
        )
        self._reader = DescriptorReader(self.info, self._control_in)
        self.reading: Reading | None = None
        self.view = View(self.descriptors)
        self._state = DeviceState(self.descriptors)
        self._core = core
        self._flush = flush
        self._now = now
        self._open: dict[int, tuple[Completion, Urb, float]] = {}  # and when it left
        self._way = way or RoundTrip()
        self._bytes = 0
        self._most_bytes = MAX_BYTES_IN_FLIGHT
        self._is_paused = False
        self._is_away = False  # nothing reaches the client now
        self._back = 0.0  # since when it is reached
        self._late: set[int] = set()  # complete, but not for the core
        self._said: dict[tuple[int, int, int, int], bytes] = {}
        self._on_pressure: Callable[[bool], None] = lambda is_high: None
        self._on_changed: Callable[[str], None] = lambda why: None
        self.own_ids: Iterator[int] = itertools.count(-1, -1)  # guests count upwards
        self._is_closed = False

    # -------------------------------------------------- for guest backends ----

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface, as the guest sees it."""
        return self._state.interfaces

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back, as measured; None: not known yet."""
        return self._way.seconds

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; *complete* is called exactly once, perhaps at once."""
        if self._is_closed:
            complete(_GONE)
            return
        if urb.id in self._open:
            complete(_INVALID)
            return
        setup = urb.setup
        local: UrbResult | _Request | None = None
        if self.view.mask:
            local = self._refuse_hidden(urb)
        if setup is not None and local is None and setup.is_standard:
            local = self._answer_locally(setup)
            if local is None and self._is_away:
                local = self._repeat(setup)
        if local is None:
            self._start(urb, complete)
        elif isinstance(local, UrbResult):
            complete(local)
        else:
            self._start(urb, complete, local)

    def _start(
        self, urb: Urb, complete: Completion, request: _Request | None = None
    ) -> None:
        """Let a URB travel, or the *request* that it stands for."""
        now = self._now()
        self._open[urb.id] = complete, urb, now
        self._bytes += urb.length
        if request is None:
            self._core.submit_urb(self.wire_id, urb, now=now)
        else:
            request(urb.id)
        self._flush()
        if len(self._open) >= MAX_URBS_IN_FLIGHT or self._bytes >= self._most_bytes:
            self._pause_or_resume()

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer; its completion comes soon. Unknown ids: nothing."""
        if urb_id in self._open:
            self._core.cancel_urb(self.wire_id, urb_id)
            self._flush()
            if self._is_away and urb_id in self._open:
                self.completed(urb_id, _CANCELLED)
                self._late.add(urb_id)

    def reset(self) -> None:
        """Reset the port; URBs in flight complete with CANCELLED.

        Afterwards the device must be what it was. One of which interfaces are hidden
        is not reset: those are not the guest's (filters.md 1.1, vrdpusb.md S31).
        """
        if self._is_closed:
            return
        if self.view.mask:
            for urb_id in list(self._open):
                self._core.cancel_urb(self.wire_id, urb_id)
            for number, alternate in list(self._state.alternates.items()):
                if alternate and self._state.select_interface(number, 0):
                    self._core.set_interface(self.wire_id, number, 0)
        else:
            self._core.reset_device(self.wire_id)
            self._state.unconfigure()
            if self.reading is not None:
                setup = SetupPacket.get_descriptor(
                    DescriptorType.DEVICE, 0, DEVICE_SIZE
                )
                self._start(Urb.control(next(self.own_ids), setup), self._compare)
        self._flush()

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(True)`` when the guest should stop submitting."""
        self._on_pressure = changed
        if self._is_paused:
            changed(True)

    # ------------------------------------------------------ for the session ----

    def completed(self, urb_id: int, result: UrbResult) -> None:
        """The core completed a URB: tell whoever submitted it."""
        entry = self._open.pop(urb_id, None)
        if entry is None:
            if urb_id in self._late:
                self._late.remove(urb_id)
            else:
                log.warning("%s: completion of unknown URB %d", self.name, urb_id)
            return
        complete, urb, left = entry
        self._bytes -= urb.length
        if urb.setup is not None:
            self._answered(urb.setup, left, result)
        if self._is_paused:
            self._pause_or_resume()
        complete(_GONE if self._is_closed else result)

    def _answered(self, setup: SetupPacket, left: float, result: UrbResult) -> None:
        """A control transfer is complete: learn from it."""
        if result.status in _ANSWERS and left >= self._back:
            now = self._now()
            self._way.add(now - left, now)
        if result.status is _OK and setup.request in _REMEMBERED:
            self._remember(setup, result)

    def request_completed(self, urb_id: int, status: UrbStatus) -> None:
        """The core completed the request that a URB stands for."""
        entry = self._open.pop(urb_id, None)
        if entry is None:
            log.warning("%s: completion of unknown request %d", self.name, urb_id)
            return
        complete, urb, _ = entry
        self._bytes -= urb.length
        if self._is_paused:
            self._pause_or_resume()
        complete(_GONE if self._is_closed else UrbResult(status))

    @property
    def is_idle(self) -> bool:
        """Is nothing of it in flight?"""
        return not self._open

    def state(self) -> AttachmentState:
        """Return what another server needs to go on; while it is idle."""
        assert self.reading is not None
        found, active = self.reading.descriptors, self._state.configuration
        return AttachmentState(
            self.reading.info,
            found.device.serialize(),
            tuple(one.serialize() for one in found.configurations),
            tuple(sorted(self.reading.strings)),
            self.view.mask,
            None if active is None else active.value,
            dict(self._state.alternates),
        )

    def adopt(self, state: AttachmentState, policy: Policy) -> None:
        """Go on with what another server had in use; in place of :meth:`open`.

        Raises:
            GuestError: the policy would show the guest something else.
            ParseError: *state* contradicts itself.
        """
        found = DeviceDescriptors(
            DeviceDescriptor.parse(state.device, []),
            tuple(
                ConfigurationDescriptor.parse(one, []) for one in state.configurations
            ),
        )
        info = replace(state.info, id=self.info.id)
        self.reading = Reading(info, found, frozenset(state.strings))
        self.view = policy.judge(self.reading)
        if self.view.mask != state.mask:
            raise GuestError(SHOWS_ELSE)
        self.descriptors = self.view.descriptors
        self._state = DeviceState(self.descriptors)
        if state.configuration is not None:
            is_right = self._state.select_configuration(state.configuration)
            for one in state.alternates.items():
                is_right = self._state.select_interface(*one) and is_right
            if not is_right:
                raise ParseError("a configuration that the device does not have")

    def allow(self, most: int) -> None:
        """So many bytes may be in flight from now on; above it the guest waits."""
        self._most_bytes = most
        self._pause_or_resume()

    def leave(self) -> None:
        """Nothing reaches the client for a time, and nothing is lost.

        What the guest asks waits, but for what is known; what it cancels completes at
        once, for the guest's patience goes on.
        """
        self._is_away = True

    def come_back(self) -> None:
        """The client is reached again, perhaps another way."""
        self._is_away, self._back = False, self._now()

    def watch_changed(self, changed: Callable[[str], None]) -> None:
        """Call *changed*, with the reason, if the device turns into another one."""
        self._on_changed = changed

    async def open(self, policy: Policy) -> None:
        """Open the device, read it, and let *policy* say what the guest sees of it.

        Raises:
            GuestError: the client refused it, it does not answer, it is not what it
                was listed as, or nothing of it is for the guest.
        """
        self._core.open_device(self.wire_id)
        self._flush()
        self.reading = await self._reader.read()
        self.reading = await self._reader.add_strings(self.reading, policy.strings)
        self.view = policy.judge(self.reading)
        self.descriptors = self.view.descriptors
        self._state = DeviceState(self.descriptors)

    async def fits(self, policy: Policy) -> bool:
        """Would the guest see the same of it under another policy?"""
        if self.reading is None:
            return False
        self.reading = await self._reader.add_strings(self.reading, policy.strings)
        try:
            view = policy.judge(self.reading)
        except GuestError:
            return False
        return (view.mask, view.descriptors) == (self.view.mask, self.descriptors)

    def is_like(self, other: "Attachment") -> bool:
        """Is it the same for the guest?"""
        mine, theirs = (self.view.mask, self.descriptors), other.view.mask
        return mine == (theirs, other.descriptors)

    def hold(self) -> None:
        """Its client has gone, and somebody may offer it again: a stand-in takes its
        place, until :meth:`rebind`."""
        self.leave()
        stand_in = StandIn(self.completed, self.request_completed)
        self.rebind(self.wire_id, stand_in, lambda: None)

    def rebind(
        self,
        wire_id: int,
        core: DeviceCalls,
        flush: Callable[[], None],
        *,
        now: Callable[[], float] | None = None,
        way: RoundTrip | None = None,
        is_open: bool = False,
        has_waited: bool = False,
    ) -> None:
        """Reach the same device another way, as when its client has come back.

        It is opened there, and gets the configuration and the settings that the guest
        chose. Reads of interrupt endpoints are asked for again. All else that is open
        completes with IO_ERROR: nobody knows whether the device has done it, so only
        the guest's driver may repeat it. The core before completes nothing any more.

        Args:
            wire_id: its number there.
            core, flush, now, way: as at the beginning; None: the clock before.
            is_open: it has been opened there.
            has_waited: what is open has not been begun, since :meth:`hold`.
        """
        self.wire_id, self._core, self._flush = wire_id, core, flush
        opened, self._open, self._bytes = self._open, {}, 0
        self._now, self._way = now or self._now, way or RoundTrip()
        if not is_open:
            core.open_device(wire_id)
        configuration = self._state.configuration
        if configuration is not None:
            core.set_configuration(wire_id, configuration.value)
            for interface, alternate in self._state.alternates.items():
                core.claim_interface(wire_id, interface)
                if alternate:
                    core.set_interface(wire_id, interface, alternate)
        for complete, urb, _ in opened.values():
            is_polled = urb.type is TransferType.INTERRUPT and urb.is_in
            if has_waited or is_polled:
                self._start(urb, complete)
            else:
                complete(_FAILED)
        flush()
        if self._is_paused:
            self._pause_or_resume()

    def close(self) -> None:
        """Give the device back; open URBs complete. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._core.close_device(self.wire_id)
            self._flush()

    # -------------------------------------------------------------- our own ----

    def _is_full(self, share: int = 1) -> bool:
        urbs, most = len(self._open) * share, self._most_bytes
        return urbs >= MAX_URBS_IN_FLIGHT or self._bytes * share >= most

    def _pause_or_resume(self) -> None:
        """Tell the guest to stop or to go on; once stopped, until half is done."""
        want = self._is_full(2 if self._is_paused else 1)
        if want != self._is_paused:
            self._is_paused = want
            self._on_pressure(want)

    def _answer_locally(self, setup: SetupPacket) -> UrbResult | _Request | None:
        """Answer what must not travel as a URB (vrdpusb.md 1.7), else None.

        Or return the request that travels in its place, to be called with a number.
        """
        match setup.request_type, setup.request:
            case 0x80, Request.GET_DESCRIPTOR:
                is_judged = self.reading is not None and setup.value >> 8 in _JUDGED
                return self._descriptor(setup) if is_judged else None
            case 0x00, Request.SET_ADDRESS:
                return _DONE
            case 0x00, Request.SET_CONFIGURATION:
                return self._set_configuration(setup.value & 0xFF)
            case 0x80, Request.GET_CONFIGURATION:
                active = self._state.configuration
                return self._bytes_in(active.value if active else 0, setup)
            case 0x01, Request.SET_INTERFACE:
                return self._set_interface(setup.index & 0xFF, setup.value & 0xFF)
            case 0x81, Request.GET_INTERFACE:
                alternate = self._state.alternates.get(setup.index & 0xFF)
                return _STALL if alternate is None else self._bytes_in(alternate, setup)
            case 0x02, Request.CLEAR_FEATURE if setup.value == Feature.ENDPOINT_HALT:
                endpoint = setup.index & 0xFF
                return lambda n: self._core.clear_halt(
                    self.wire_id, endpoint, request=n
                )
        return None

    def _descriptor(self, setup: SetupPacket) -> UrbResult | None:
        """Answer with what was judged: the device may say something else by now."""
        kind, index = setup.value >> 8, setup.value & 0xFF
        if kind == DescriptorType.DEVICE:
            data = self.descriptors.device.serialize()
        elif kind == DescriptorType.CONFIGURATION:
            if index >= len(self.descriptors.configurations):
                return _STALL
            data = self.descriptors.configurations[index].serialize()
        else:
            return _STALL if self.view.mask else None
        data = data[: setup.length]
        return UrbResult(UrbStatus.OK, data, len(data))

    def _remember(self, setup: SetupPacket, result: UrbResult) -> None:
        """Keep an answer for :meth:`_repeat`."""
        if not setup.is_standard:
            return
        key = setup.request_type, setup.request, setup.value, setup.index
        before = self._said.get(key)
        if before is None:
            if len(self._said) >= MAX_SAID:
                return
        elif len(result.data) < len(before) and setup.request != Request.GET_STATUS:
            return
        self._said[key] = bytes(result.data)

    def _repeat(self, setup: SetupPacket) -> UrbResult | None:
        """Answer as the device did before; nothing reaches it now, and Linux reads some
        of it again after a reset, and gives the device up without."""
        key = setup.request_type, setup.request, setup.value, setup.index
        data = self._said.get(key)
        if data is None:
            return None
        data = data[: setup.length]
        return UrbResult(UrbStatus.OK, data, len(data))

    def _refuse_hidden(self, urb: Urb) -> UrbResult | None:
        """Refuse what is meant for a hidden interface, and what is not known."""
        setup = urb.setup
        if setup is None:
            return None if urb.endpoint in self._state.endpoints else _INVALID
        kind = setup.request_type
        if setup.is_standard and _CHANGING.get(setup.request, kind) != kind:
            return _STALL
        recipient, target = kind & 0x1F, setup.index & 0xFF
        if setup.is_standard and setup.request == Request.GET_DESCRIPTOR:
            if recipient != Recipient.INTERFACE and not is_of_device(setup.value >> 8):
                return _STALL
        match recipient:
            case Recipient.DEVICE:
                is_seen = True
            case Recipient.INTERFACE:
                is_seen = not is_masked(self.view.mask, self._interface_of(setup))
            case Recipient.ENDPOINT:
                is_seen = not target & 0x0F or target in self._state.endpoints
            case _:
                is_seen = False
        return None if is_seen else _STALL

    def _interface_of(self, setup: SetupPacket) -> int:
        """The low byte of wIndex; printers have the number in the high one."""
        number = setup.index >> 8
        if (setup.request_type, setup.request) == _GET_DEVICE_ID and any(
            (i.number, i.interface_class) == (number, ClassCode.PRINTER)
            for i in self._state.interfaces
        ):
            return number
        return setup.index & 0xFF

    def _compare(self, result: UrbResult) -> None:
        """Is the device after a reset what it was before? (T33)"""
        if result.status is not UrbStatus.OK or self.reading is None:
            return  # whatever this is, the guest meets it too
        before = self.reading.descriptors.device
        try:
            after = DeviceDescriptor.parse(bytes(result.data), [])
        except ParseError as error:
            self._on_changed(f"after a reset its device descriptor is broken: {error}")
            return
        if after != before:
            was, now = (d.serialize().hex() for d in (before, after))
            self._on_changed(
                "after a reset it is a different device: it was"
                f" {describe_identity(before)} ({was}), now it is"
                f" {describe_identity(after)} ({now})"
            )

    @staticmethod
    def _bytes_in(value: int, setup: SetupPacket) -> UrbResult:
        data = bytes((value,))[: setup.length]
        return UrbResult(UrbStatus.OK, data, len(data))

    def _set_configuration(self, value: int) -> UrbResult | _Request:
        old = self._state.configuration
        if not self._state.select_configuration(value):
            return _STALL

        def request(number: int) -> None:
            for interface in old.interface_numbers if old else ():
                self._core.release_interface(self.wire_id, interface)
            self._core.set_configuration(self.wire_id, value, request=number)
            for interface in self._state.alternates:
                self._core.claim_interface(self.wire_id, interface)

        return request

    def _set_interface(self, interface: int, alternate: int) -> UrbResult | _Request:
        if not self._state.select_interface(interface, alternate):
            return _STALL
        return lambda number: self._core.set_interface(
            self.wire_id, interface, alternate, request=number
        )

    async def _control_in(self, setup: SetupPacket) -> UrbResult:
        """Submit a control transfer of our own and wait for it, not for long."""
        done: asyncio.Future[UrbResult] = asyncio.get_running_loop().create_future()

        def complete(result: UrbResult) -> None:
            if not done.done():
                done.set_result(result)

        urb = Urb.control(next(self.own_ids), setup)
        if self._is_closed:
            return _GONE
        self._start(urb, complete)
        try:
            async with asyncio.timeout(DESCRIPTOR_TIMEOUT):
                return await asyncio.shield(done)
        except TimeoutError:
            self.cancel(urb.id)
            await done  # its id is free then
            return UrbResult(UrbStatus.TIMEOUT)
        except asyncio.CancelledError:
            self.cancel(urb.id)
            raise

    def __str__(self) -> str:
        """As VUSB log lines name it (vrdpusb.md 5)."""
        info = self.info
        return f"{self.name} [proxy {info.vendor_id:04x}:{info.product_id:04x}]"
