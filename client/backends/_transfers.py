"""libusb's transfers: one structure and one buffer each, used again and again.

``usb1.USBTransfer`` makes a buffer and a dozen ctypes objects for each transfer, which
costs more than libusb and the kernel do. Here all of that is made once per endpoint
and transfer in flight; what is left are two field accesses and a call.
"""

import ctypes
import logging
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import usb1

from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, IsoPacket, Urb, UrbResult, UrbStatus

__all__ = ["EventHandler", "Transfer", "Transfers"]

log = logging.getLogger(__name__)

_SETUP = struct.Struct("<BBHHH")
"""The SETUP packet, which is what the buffer of a control transfer begins with."""

MIN_SIZE = 64
"""Bytes of the smallest buffer."""

MAX_SPARE_BYTES = 4 << 20
"""Buffers of a device that nothing uses: 64 of 64 KiB. What is above is freed."""

_STATUSES = {
    usb1.TRANSFER_COMPLETED: UrbStatus.OK,
    usb1.TRANSFER_STALL: UrbStatus.STALL,
    usb1.TRANSFER_OVERFLOW: UrbStatus.OVERFLOW,
    usb1.TRANSFER_TIMED_OUT: UrbStatus.TIMEOUT,
    usb1.TRANSFER_CANCELLED: UrbStatus.CANCELLED,
    usb1.TRANSFER_NO_DEVICE: UrbStatus.NO_DEVICE,
}

_IO_ERROR = UrbStatus.IO_ERROR

_KINDS = {
    TransferType.CONTROL: usb1.TRANSFER_TYPE_CONTROL,
    TransferType.ISOCHRONOUS: usb1.TRANSFER_TYPE_ISOCHRONOUS,
    TransferType.BULK: usb1.TRANSFER_TYPE_BULK,
    TransferType.INTERRUPT: usb1.TRANSFER_TYPE_INTERRUPT,
}

_Key: TypeAlias = tuple[TransferType, int, int]
"""What transfers must have in common to stand in for each other: type, endpoint, and
number of isochronous packets."""


class Transfer:
    """A transfer, and the URB that it is used for now."""

    __slots__ = (
        *("address", "buffer", "complete", "fields", "is_in", "key", "length"),
        *("owner", "pointer", "size", "start", "urb"),
    )

    def __init__(self, owner: "Transfers", key: _Key, pointer: Any) -> None:
        self.owner = owner
        self.key = key
        self.is_in = key[1] & 0x80 != 0
        self.start = 0  # where the data begins in the buffer
        self.length = -1  # of what libusb was told to move last
        self.pointer = pointer
        self.fields = pointer.contents
        self.address = ctypes.addressof(self.fields)
        self.size = -1  # no buffer yet
        self.buffer = memoryview(b"")
        self.urb: Urb
        self.complete: Completion

    def enlarge(self, size: int) -> None:
        """Make a buffer for *size* bytes at least."""
        self.size = max(MIN_SIZE, 1 << (size - 1).bit_length())
        memory = bytearray(self.size)
        at = ctypes.addressof((ctypes.c_char * self.size).from_buffer(memory))
        self.fields.buffer = at
        self.buffer = memoryview(memory)

    def result(self) -> UrbResult:
        """What came of it. The data is a copy: the buffer is used again."""
        fields = self.fields
        status = _STATUSES.get(fields.status, _IO_ERROR)
        if self.key[2]:
            return self._packets(status)
        length = fields.actual_length
        if not self.is_in:
            return UrbResult(status, b"", length)
        start = self.start
        return UrbResult(status, self.buffer[start : start + length].tobytes(), length)

    def _packets(self, status: UrbStatus) -> UrbResult:
        packets, pieces, start, length = [], [], 0, 0
        for found in usb1.libusb1.get_iso_packet_list(self.pointer):
            is_ok = _STATUSES.get(found.status, _IO_ERROR)
            packets.append(IsoPacket(found.actual_length, is_ok))
            if self.urb.is_in:
                pieces.append(self.buffer[start : start + found.actual_length])
            start += found.length
            length += found.actual_length
        return UrbResult(status, b"".join(pieces), length, tuple(packets))


_submitted: dict[int, Transfer] = {}
"""By address: what libusb has. One that never comes back stays here, for libusb may
still write to it."""


def _returned(address: int) -> None:
    """libusb is done with a transfer; called while it handles events."""
    transfer = _submitted.pop(address)
    transfer.owner.returned(transfer)


_RETURNED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_returned)


class Transfers:
    """The transfers of one device.

    Args:
        handle: of the device.
        returned: called when one is done; its :meth:`Transfer.result` is to be taken
            and then :meth:`keep` to be called.
    """

    def __init__(
        self, handle: usb1.USBDeviceHandle, returned: Callable[[Transfer], None]
    ) -> None:
        self.returned = returned
        self._handle = handle._USBDeviceHandle__handle  # usb1 has no way to ask for it
        library = usb1.libusb1
        self._submit, self._cancel = (
            library.libusb_submit_transfer,
            library.libusb_cancel_transfer,
        )
        self._callback = ctypes.cast(_RETURNED, library.libusb_transfer_cb_fn_p)
        self._spare: dict[_Key, list[Transfer]] = {}
        self._spare_bytes = 0
        self._is_closed = False

    def start(self, urb: Urb, complete: Completion) -> Transfer | int:
        """Give a URB to libusb; an error of libusb's instead if it refuses it."""
        key = urb.type, urb.endpoint, len(urb.packets)
        spare = self._spare.get(key)
        if spare:
            transfer = spare.pop()
            self._spare_bytes -= transfer.size
        elif pointer := usb1.libusb1.libusb_alloc_transfer(key[2]):
            transfer = self._make(key, pointer)
        else:
            return int(usb1.ERROR_NO_MEM)
        setup, is_in = urb.setup, transfer.is_in
        length = urb.length if is_in else len(urb.data)
        start = transfer.start = 0 if setup is None else _SETUP.size
        size = start + length
        if size > transfer.size:
            transfer.enlarge(size)
        if size != transfer.length:
            transfer.fields.length = transfer.length = size
        if setup is not None:
            _SETUP.pack_into(
                transfer.buffer,
                0,
                setup.request_type,
                setup.request,
                setup.value,
                setup.index,
                length,
            )
        if not is_in:
            transfer.buffer[start:size] = urb.data
        if key[2]:
            described = usb1.libusb1.get_iso_packet_list(transfer.pointer)
            for packet, wanted in zip(described, urb.packets, strict=True):
                packet.length = wanted
        transfer.urb, transfer.complete = urb, complete
        _submitted[transfer.address] = transfer
        error: int = self._submit(transfer.pointer)
        if error:
            del _submitted[transfer.address]
            self.keep(transfer)
            return error
        return transfer

    def _make(self, key: _Key, pointer: Any) -> Transfer:
        self._spare.setdefault(key, [])
        transfer = Transfer(self, key, pointer)
        fields = transfer.fields
        fields.dev_handle = self._handle
        fields.type = _KINDS[key[0]]
        fields.endpoint = key[1] if key[0] is not TransferType.CONTROL else 0
        fields.timeout = 0  # the guest cancels what takes too long
        fields.callback = self._callback
        fields.num_iso_packets = key[2]
        return transfer

    def keep(self, transfer: Transfer) -> None:
        """Take back one that is done, for another URB."""
        size = self._spare_bytes + transfer.size
        if self._is_closed or size > MAX_SPARE_BYTES:
            usb1.libusb1.libusb_free_transfer(transfer.pointer)
        else:
            self._spare_bytes = size
            self._spare[transfer.key].append(transfer)

    def cancel(self, transfer: Transfer) -> int:
        """Ask libusb to stop one that has not returned; an error of libusb's or 0."""
        error: int = self._cancel(transfer.pointer)
        return error

    def close(self) -> None:
        """Free what is not in use, and the rest when it comes back. Idempotent."""
        self._is_closed = True
        for spare in self._spare.values():
            for transfer in spare:
                usb1.libusb1.libusb_free_transfer(transfer.pointer)
        self._spare.clear()


class EventHandler:
    """Lets libusb handle what has happened, without waiting.

    As ``USBContext.handleEventsTimeout`` does, which takes several times as long. The
    event loop calls it when there is something.
    """

    def __init__(self, context: usb1.USBContext) -> None:
        library = usb1.libusb1
        self._context = context._USBContext__context_p
        self._now = ctypes.byref(library.timeval(0, 0))
        self._handle = library.libusb_handle_events_timeout

    def __call__(self) -> None:
        """Call what is due."""
        error = self._handle(self._context, self._now)
        if error:
            log.error("libusb: %s", usb1.USBError(error))
