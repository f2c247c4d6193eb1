"""Packets of usbredir made by hand, and a device side that has a device in use."""

import struct
from collections.abc import Iterator
from typing import Self

from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import Side, UrbSubmitted
from rusb.wire.usbredir import UsbredirDeviceSide
from tests.support.wire.joined import messages

HELLO, CONNECT, DISCONNECT, RESET, INTERFACE_INFO, EP_INFO = range(6)
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION_STATUS = 6, 7, 8
SET_ALT, GET_ALT, ALT_STATUS, START_ISO, STOP_ISO, ISO_STATUS = range(9, 15)
START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS = 15, 16, 17
ALLOC_STREAMS, FREE_STREAMS, STREAMS_STATUS = 18, 19, 20
CANCEL, REJECT, FILTER, ACK = 21, 22, 23, 24
START_BULK, STOP_BULK, BULK_STATUS = 25, 26, 27
CONTROL, BULK, ISO, INTERRUPT, BUFFERED = 100, 101, 102, 103, 104
SUCCESS, CANCELLED, INVAL, IOERROR, STALL, TIMEOUT, BABBLE = range(7)

CAPS = 0x7E

BULK_IN, BULK_OUT, POLLED, ISO_IN, ISO_OUT = 0x81, 0x02, 0x83, 0x84, 0x05
SLOW = 0x86  # an interrupt endpoint whose bInterval is 0
REPORTS = 0x07  # interrupt OUT
ENDPOINTS = tuple(
    EndpointDescriptor(address, kind, size, interval)
    for address, kind, size, interval in (
        *((BULK_IN, 2, 512, 0), (BULK_OUT, 2, 512, 0), (POLLED, 3, 64, 4)),
        *((ISO_IN, 1, 192, 1), (ISO_OUT, 1, 192, 0), (SLOW, 3, 8, 0)),
        (REPORTS, 3, 64, 4),
    )
)
INFO = DeviceInfo(7, 0x1209, 0x0001, speed=Speed.HIGH)
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 0x0001, 0x0100),
    (
        ConfigurationDescriptor(
            *(1, 0x80, 50),
            (
                InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),
                InterfaceDescriptor(1, 0, 0xFE, 0, 0),
                InterfaceDescriptor(
                    1, 1, 0xFE, 0, 0, 0, (EndpointDescriptor(0x88, 2, 512, 0),)
                ),
            ),
        ),
    ),
)


def hello(caps: int = CAPS, version: bytes = b"a peer") -> bytes:
    return struct.pack("<III64sI", HELLO, 68, 0, version, caps)


def packet(kind: int, id: int = 0, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", kind, len(body), id) + body


def bulk(id: int, endpoint: int, length: int = 0, data: bytes = b"") -> bytes:
    length = length or len(data)
    head = struct.pack("<BBHIH", endpoint, 0, length & 0xFFFF, 0, length >> 16)
    return packet(BULK, id, head + data)


def control(id: int, request_type: int, length: int, data: bytes = b"") -> bytes:
    head = (request_type & 0x80, 1, request_type, 0, 0, 0, length)
    return packet(CONTROL, id, struct.pack("<BBBBHHH", *head) + data)


def live(
    kind: int, endpoint: int, data: bytes, *, id: int = 0, status: int = 0
) -> bytes:
    """An INTERRUPT or ISO packet that carries *data*."""
    head = struct.pack("<BBH", endpoint, status, len(data))
    return packet(kind, id, head + data)


def packets_of(side: Side) -> Iterator[tuple[int, int, bytes]]:
    """Type, id and body of each packet that a core sends, but its hello."""
    raw = b"".join(messages(side))
    if raw[:4] == bytes(4):  # hello, with the short header
        raw = raw[12 + 68 :]
    while raw:
        kind, length, id = struct.unpack_from("<IIQ", raw)
        yield kind, id, raw[16 : 16 + length]
        raw = raw[16 + length :]


class Host:
    """The device side with its device connected, configured and silent.

    Attributes:
        round_trip: seconds to the device and back; None: not known.
    """

    def __init__(self, descriptors: DeviceDescriptors = DESCRIPTORS) -> None:
        self.round_trip: float | None = 0.0
        self.core = UsbredirDeviceSide(round_trip=lambda: self.round_trip)
        self.core.channel_opened(0, "", now=0)
        self.core.announce([INFO], {INFO.id: descriptors})
        self.send(hello(), packet(SET_CONFIGURATION, 1, b"\1"))
        (urb,) = self.urbs()
        self.complete(urb)
        self.enumeration = list(self.answers())

    @classmethod
    def with_endpoints(cls, *endpoints: EndpointDescriptor) -> Self:
        """Of a device that has one interface, with these."""
        interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, endpoints)
        configuration = ConfigurationDescriptor(1, 0x80, 50, (interface,))
        return cls(DeviceDescriptors(DESCRIPTORS.device, (configuration,)))

    def send(self, *packets: bytes) -> None:
        self.core.receive_data(0, b"".join(packets), now=0)

    def urbs(self) -> list[Urb]:
        self.events = self.core.events()
        return [e.urb for e in self.events if isinstance(e, UrbSubmitted)]

    def complete(
        self, urb: Urb, data: bytes = b"", status: UrbStatus = UrbStatus.OK
    ) -> None:
        length = len(data) if urb.is_in else urb.length
        self.core.complete_urb(INFO.id, urb.id, UrbResult(status, data, length))

    def answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, id and body of each packet sent."""
        return packets_of(self.core)
