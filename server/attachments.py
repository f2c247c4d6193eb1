"""One remote device in use: descriptors, URB table, standard requests, detach.

It stands between a guest backend, which talks to it like a host controller
(:class:`~rusb.server.guests.base.AttachedDevice`), and the wire towards the client.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from rusb.errors import GuestError, ParseError, RusbError
from rusb.oserrors import reason
from rusb.usb.descriptors import (
    MAX_CONFIGURATION_SIZE,
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    DeviceState,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, Feature, Request
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

__all__ = ["Attachment", "DeviceCalls", "why_failed"]

log = logging.getLogger(__name__)

MAX_URBS_IN_FLIGHT = 512
"""Per device. An xHCI guest queues a few dozen; above it we stop reading the guest."""

MAX_BYTES_IN_FLIGHT = 32 << 20
"""Per device: thirty-two URBs of the largest size that guests use (1 MiB)."""

DESCRIPTOR_ATTEMPTS = 6
DESCRIPTOR_TIMEOUT, DESCRIPTOR_PAUSE = 5.0, 0.1
"""As VirtualBox reads descriptors at attach (vrdpusb.md 2.1); seconds."""

MAX_CONFIGURATIONS = 32
"""More than any device has; each costs two round trips at attach."""

_DONE = UrbResult(UrbStatus.OK)
_STALL = UrbResult(UrbStatus.STALL)
_GONE = UrbResult(UrbStatus.NO_DEVICE)


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
            return f"not done within {seconds:g} s"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "too many open files; raise the limit (ulimit -n, LimitNOFILE=)"
        case OSError():
            return reason(error)
    log.error("a bug while attaching a device", exc_info=error)
    return f"internal error: {error!r}"


class DeviceCalls(Protocol):
    """What an attachment asks of a device: calls of the wire's ``GuestSide``."""

    def open_device(self, device: int) -> None: ...
    def close_device(self, device: int) -> None: ...
    def reset_device(self, device: int) -> None: ...
    def set_configuration(self, device: int, value: int) -> None: ...
    def claim_interface(self, device: int, interface: int) -> None: ...
    def release_interface(self, device: int, interface: int) -> None: ...
    def set_interface(self, device: int, interface: int, alternate: int) -> None: ...
    def clear_halt(self, device: int, endpoint: int) -> None: ...
    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None: ...
    def cancel_urb(self, device: int, urb_id: int) -> None: ...


class Attachment:
    """A device of one client, opened for the guest; see AttachedDevice.

    Args:
        info: what the client announced.
        name: unique among everything attached to the guest, ``usb-3``.
        number: likewise unique; becomes ``info.id``.
        core: the wire towards the client, or what stands for it.
        move: sends what the core has to send.
        now: the loop's clock.
    """

    def __init__(
        self,
        info: DeviceInfo,
        *,
        name: str,
        number: int,
        core: DeviceCalls,
        move: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.wire_id = info.id
        self.info = replace(info, id=number)
        self.name = name
        self.descriptors = DeviceDescriptors(
            DeviceDescriptor(0, 0, 0, 0, 0, 0, 0, 0), ()
        )
        self.urbs_done = 0
        self.bytes_done = 0
        self._state = DeviceState(self.descriptors)
        self._core = core
        self._move = move
        self._now = now
        self._open: dict[int, tuple[Completion, int]] = {}
        self._bytes = 0
        self._is_held = False
        self._is_pressed = False
        self._on_pressure: Callable[[bool], None] = lambda is_high: None
        self._is_closed = False

    # -------------------------------------------------- for guest backends ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; *complete* is called exactly once, perhaps at once."""
        if self._is_closed:
            complete(_GONE)
            return
        if urb.id in self._open:
            complete(UrbResult(UrbStatus.INVALID))
            return
        setup = urb.setup
        if setup is not None and setup.is_standard:
            local = self._answer_locally(setup)
            if local is not None:
                self._move()
                complete(local)
                return
        self._open[urb.id] = complete, urb.length
        self._bytes += urb.length
        self._core.submit_urb(self.wire_id, urb, now=self._now())
        self._move()
        if not self._is_pressed and self._is_full():
            self._press()

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer; its completion comes soon. Unknown ids: nothing."""
        if urb_id in self._open:
            self._core.cancel_urb(self.wire_id, urb_id)
            self._move()

    def reset(self) -> None:
        """Reset the port; URBs in flight complete with CANCELLED."""
        if not self._is_closed:
            self._core.reset_device(self.wire_id)
            self._state.select_configuration(0)
            self._move()

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(True)`` when the guest should stop submitting."""
        self._on_pressure = changed
        if self._is_pressed:
            changed(True)

    # ------------------------------------------------------ for the session ----

    def completed(self, urb_id: int, result: UrbResult) -> None:
        """The core completed a URB: tell whoever submitted it."""
        entry = self._open.pop(urb_id, None)
        if entry is None:
            log.warning("%s: completion of unknown URB %d", self.name, urb_id)
            return
        complete, length = entry
        self._bytes -= length
        self.urbs_done += 1
        self.bytes_done += result.length
        if self._is_pressed:
            self._press()
        complete(_GONE if self._is_closed else result)

    def hold(self, is_high: bool) -> None:
        """The client reads too slowly: stop the guest, or let it go on."""
        self._is_held = is_high
        self._press()

    async def open(self) -> None:
        """Open the device and read its descriptors (vrdpusb.md 2.4).

        Raises:
            GuestError: the client refused it, or it does not answer.
        """
        self._core.open_device(self.wire_id)
        self._move()
        device = DeviceDescriptor.parse(
            await self._read_descriptor(DescriptorType.DEVICE, 0, 18)
        )
        if device.num_configurations > MAX_CONFIGURATIONS:
            raise GuestError(
                f"{self.info} claims {device.num_configurations} configurations"
            )
        configurations = []
        for index in range(device.num_configurations):
            configurations.append(await self._read_configuration(index))
        self.descriptors = DeviceDescriptors(device, tuple(configurations))
        self._state = DeviceState(self.descriptors)

    def close(self) -> None:
        """Give the device back; open URBs complete. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._core.close_device(self.wire_id)
            self._move()

    # -------------------------------------------------------------- our own ----

    def _is_full(self, share: int = 1) -> bool:
        return (
            len(self._open) * share >= MAX_URBS_IN_FLIGHT
            or self._bytes * share >= MAX_BYTES_IN_FLIGHT
        )

    def _press(self) -> None:
        """Tell the guest to stop or to go on; once stopped, until half is done."""
        want = self._is_held or self._is_full(2 if self._is_pressed else 1)
        if want != self._is_pressed:
            self._is_pressed = want
            self._on_pressure(want)

    def _answer_locally(self, setup: SetupPacket) -> UrbResult | None:
        """Answer what must not travel as a URB (vrdpusb.md 1.7), else None."""
        match setup.request_type, setup.request:
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
                self._core.clear_halt(self.wire_id, setup.index & 0xFF)
                return _DONE
        return None

    @staticmethod
    def _bytes_in(value: int, setup: SetupPacket) -> UrbResult:
        data = bytes((value,))[: setup.length]
        return UrbResult(UrbStatus.OK, data, len(data))

    def _set_configuration(self, value: int) -> UrbResult:
        old = self._state.configuration
        if not self._state.select_configuration(value):
            return _STALL
        for number in old.interface_numbers if old else ():
            self._core.release_interface(self.wire_id, number)
        self._core.set_configuration(self.wire_id, value)
        for number in self._state.alternates:
            self._core.claim_interface(self.wire_id, number)
        return _DONE

    def _set_interface(self, number: int, alternate: int) -> UrbResult:
        if not self._state.select_interface(number, alternate):
            return _STALL
        self._core.set_interface(self.wire_id, number, alternate)
        return _DONE

    async def _read_configuration(self, index: int) -> ConfigurationDescriptor:
        kind = DescriptorType.CONFIGURATION
        head = await self._read_descriptor(kind, index, 9)
        total = int.from_bytes(head[2:4], "little")
        if not 9 <= total <= MAX_CONFIGURATION_SIZE:
            raise GuestError(
                f"{self.info}: configuration {index} claims {total} bytes,"
                f" 9 to {MAX_CONFIGURATION_SIZE} are allowed"
            )
        data = await self._read_descriptor(kind, index, total) if total > 9 else head
        try:
            return ConfigurationDescriptor.parse(data)
        except ParseError as error:
            raise GuestError(f"{self.info}: configuration {index}: {error}") from error

    async def _read_descriptor(self, kind: int, index: int, length: int) -> bytes:
        """Read one descriptor, in several attempts; at least *length* bytes."""
        setup = SetupPacket.get_descriptor(kind, index, length)
        trouble = ""
        for attempt in range(DESCRIPTOR_ATTEMPTS):
            if attempt:
                await asyncio.sleep(DESCRIPTOR_PAUSE)
            result = await self._control_in(setup)
            if result.status is UrbStatus.OK and len(result.data) >= length:
                return bytes(result.data)
            trouble = f"{result.status.name}, {len(result.data)} of {length} bytes"
            if result.status is UrbStatus.NO_DEVICE:
                break
        raise GuestError(
            f"{self.info}: descriptor {kind}/{index} cannot be read: {trouble}"
        )

    async def _control_in(self, setup: SetupPacket) -> UrbResult:
        """Submit a control transfer of our own and wait for it, not for long."""
        done: asyncio.Future[UrbResult] = asyncio.get_running_loop().create_future()

        def complete(result: UrbResult) -> None:
            if not done.done():
                done.set_result(result)

        urb = Urb.control(0, setup)  # nobody else submits before the guest has it
        self.submit(urb, complete)
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
