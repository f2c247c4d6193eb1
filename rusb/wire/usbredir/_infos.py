"""What the device side tells of a device: interface_info and ep_info (6.2)."""

from collections.abc import Collection

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.state import DeviceState
from rusb.usb.types import Speed, TransferType

from . import _codec as codec
from ._codec import Cap, endpoint_index

__all__ = ["ep_info", "interface_info", "packet_size"]

_POLLED = (TransferType.INTERRUPT, TransferType.ISOCHRONOUS)


def interface_info(state: DeviceState) -> tuple[int | bytes, ...]:
    """Return the fields: the interfaces that are selected now."""
    chosen = state.interfaces[: codec.ENDPOINTS]
    columns = (
        bytes(i.number for i in chosen),
        bytes(i.interface_class for i in chosen),
        bytes(i.interface_subclass for i in chosen),
        bytes(i.interface_protocol for i in chosen),
    )
    return len(chosen), *(c.ljust(codec.ENDPOINTS, b"\0") for c in columns)


def ep_info(
    state: DeviceState, speed: Speed, caps: int, polled: Collection[int] = ()
) -> list[bytes]:
    """Return the fields: the endpoints of the same interfaces.

    Args:
        polled: addresses of bulk endpoints that are said to be interrupt ones.
    """
    types = bytearray([codec.NO_ENDPOINT] * codec.ENDPOINTS)
    intervals, interfaces = bytearray(codec.ENDPOINTS), bytearray(codec.ENDPOINTS)
    sizes = [0] * codec.ENDPOINTS
    types[0] = types[16] = 0
    size0 = state.descriptors.device.max_packet_size0
    sizes[0] = sizes[16] = 512 if speed is Speed.SUPER else size0
    for interface in state.interfaces[: codec.ENDPOINTS]:
        for endpoint in interface.endpoints:
            index = endpoint_index(endpoint.address)
            kind = endpoint.transfer_type
            if endpoint.address in polled:
                kind = TransferType.INTERRUPT
            types[index] = codec.TRANSFER_CODES[kind]
            # 6.2: QEMU refuses a device with a polled endpoint whose interval is 0
            is_polled = kind in _POLLED
            intervals[index] = endpoint.interval or int(is_polled)
            interfaces[index] = interface.number
            sizes[index] = packet_size(endpoint, speed)
    fields = [bytes(types), bytes(intervals), bytes(interfaces)]
    if caps & Cap.MAX_PACKET_SIZE:
        fields.append(b"".join(s.to_bytes(2, "little") for s in sizes))
    return fields


def packet_size(endpoint: EndpointDescriptor, speed: Speed) -> int:
    """Return the bytes of a packet; those of high bandwidth count as one."""
    size = endpoint.packet_size
    if endpoint.transfer_type is TransferType.ISOCHRONOUS and speed is Speed.HIGH:
        size *= 1 + (endpoint.max_packet_size >> 11 & 3)
    return size
