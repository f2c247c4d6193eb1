"""The numbers of USB that everything else names (USB 2.0 chapter 9, USB 3.2)."""

import enum

__all__ = [
    "ClassCode",
    "DescriptorType",
    "Direction",
    "Feature",
    "Recipient",
    "Request",
    "Speed",
    "TransferType",
]


class Direction(enum.IntEnum):
    """Direction of a transfer; the value is bit 7 of an endpoint address."""

    OUT = 0x00
    IN = 0x80


class TransferType(enum.IntEnum):
    """Transfer type; the value is bmAttributes bits 0-1 (USB 2.0, table 9-13)."""

    CONTROL = 0
    ISOCHRONOUS = 1
    BULK = 2
    INTERRUPT = 3


class Speed(enum.IntEnum):
    """Bus speed. The values are ours; each wire has its own numbers."""

    UNKNOWN = 0
    LOW = 1
    FULL = 2
    HIGH = 3
    SUPER = 4

    @property
    def label(self) -> str:
        """The word VirtualBox and ``lsusb`` users know: ``High``, ``Super``…"""
        return self.name.capitalize()


class DescriptorType(enum.IntEnum):
    """bDescriptorType (USB 3.2, table 9-6)."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5
    DEVICE_QUALIFIER = 6
    OTHER_SPEED_CONFIGURATION = 7
    INTERFACE_ASSOCIATION = 11
    BOS = 15
    DEVICE_CAPABILITY = 16
    HID = 0x21
    HID_REPORT = 0x22
    CS_INTERFACE = 0x24
    CS_ENDPOINT = 0x25
    HUB = 0x29
    SS_ENDPOINT_COMPANION = 48


class Request(enum.IntEnum):
    """bRequest of the standard requests (USB 3.2, table 9-5)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    SET_DESCRIPTOR = 7
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11
    SYNCH_FRAME = 12
    SET_SEL = 48
    SET_ISOCH_DELAY = 49


class Recipient(enum.IntEnum):
    """bmRequestType bits 0-4."""

    DEVICE = 0
    INTERFACE = 1
    ENDPOINT = 2
    OTHER = 3


class Feature(enum.IntEnum):
    """Feature selectors (USB 2.0, table 9-6)."""

    ENDPOINT_HALT = 0
    DEVICE_REMOTE_WAKEUP = 1


class ClassCode(enum.IntEnum):
    """Class codes that rusb looks at."""

    PER_INTERFACE = 0x00
    AUDIO = 0x01
    COMMUNICATIONS = 0x02
    HID = 0x03
    PRINTER = 0x07
    MASS_STORAGE = 0x08
    HUB = 0x09
    CDC_DATA = 0x0A
    VIDEO = 0x0E
    MISCELLANEOUS = 0xEF
    VENDOR_SPECIFIC = 0xFF
