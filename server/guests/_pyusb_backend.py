"""A pyusb backend whose devices are those that ``rusb serve --guest pyusb`` offers.

Any pyusb program can use it; ``python -m rusb.server.guests.pyusb`` gives it to
programs that know nothing of it. It is synchronous, as pyusb is, and has no threads.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import usb.backend
import usb.core

from rusb.errors import ParseError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import UrbResult, UrbStatus

from ..vbox.files import belongs_to_others
from ._pyusb_remote import Remote, usb_error

__all__ = ["Backend", "default_folder"]


def default_folder() -> Path:
    """Return where devices are when nobody names a folder."""
    named = os.environ.get("RUSB_PYUSB")
    if named:
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "rusb-pyusb"
    return Path(f"/tmp/rusb-pyusb-{os.getuid()}")


class _Fields:
    """An object with the attributes that pyusb copies from a descriptor."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Backend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb has no types
    """See the module. Device and handle are the same object, a :class:`Remote`."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self._folder = folder or default_folder()
        self._remotes: dict[Path, Remote] = {}

    # ---------------------------------------------------------- enumeration ----

    def enumerate_devices(self) -> Iterator[Remote]:
        """Yield every device that no other program has."""
        found = {}
        for path in self._paths():
            remote = self._remotes.get(path)
            if remote is None or remote.is_gone():
                try:
                    remote = Remote(path)
                except (OSError, usb.core.USBError, ParseError):
                    continue  # gone meanwhile, or in use
            found[path] = remote
        for path, remote in self._remotes.items():
            if found.get(path) is not remote:
                remote.close()
        self._remotes = found
        yield from found.values()

    def _paths(self) -> list[Path]:
        """The sockets in the folder.

        Raises:
            USBError: somebody else could have put them there.
        """
        try:
            is_foreign = belongs_to_others(self._folder)
        except OSError:  # no server has been here yet
            return []
        if is_foreign:
            raise usb.core.USBError(
                f"{self._folder} belongs to another user, can be written by others, or"
                " is a symbolic link, so its contents are not trusted as devices of"
                " rusb serve",
                None,
                errno.EACCES,
            )
        return sorted(self._folder.glob("*.usb"))

    def get_parent(self, dev: Remote) -> None:
        """Every device hangs on a port of a root hub that is not shown."""
        return None

    def get_device_descriptor(self, dev: Remote) -> _Fields:
        """Device descriptor, with bus, address, port and speed."""
        d = dev.device
        return _Fields(
            bLength=18,
            bDescriptorType=DescriptorType.DEVICE,
            bcdUSB=d.bcd_usb,
            bDeviceClass=d.device_class,
            bDeviceSubClass=d.device_subclass,
            bDeviceProtocol=d.device_protocol,
            bMaxPacketSize0=d.max_packet_size0,
            idVendor=d.vendor_id,
            idProduct=d.product_id,
            bcdDevice=d.bcd_device,
            iManufacturer=d.manufacturer,
            iProduct=d.product,
            iSerialNumber=d.serial,
            bNumConfigurations=len(dev.configurations),
            address=dev.address,
            bus=1,
            port_number=dev.address,
            port_numbers=(dev.address,),
            speed=int(dev.speed),
        )

    def get_configuration_descriptor(self, dev: Remote, config: int) -> _Fields:
        """Configuration *config*, an index."""
        c = self._configuration(dev, config)
        return _Fields(
            bLength=9,
            bDescriptorType=DescriptorType.CONFIGURATION,
            wTotalLength=len(c.serialize()),
            bNumInterfaces=len(c.interface_numbers),
            bConfigurationValue=c.value,
            iConfiguration=c.string,
            bmAttributes=c.attributes,
            bMaxPower=c.max_power,
            extra_descriptors=list(c.extra),
        )

    def get_interface_descriptor(
        self, dev: Remote, intf: int, alt: int, config: int
    ) -> _Fields:
        """Interface and alternate setting, both indices."""
        i = self._interface(dev, intf, alt, config)
        return _Fields(
            bLength=9,
            bDescriptorType=DescriptorType.INTERFACE,
            bInterfaceNumber=i.number,
            bAlternateSetting=i.alternate,
            bNumEndpoints=len(i.endpoints),
            bInterfaceClass=i.interface_class,
            bInterfaceSubClass=i.interface_subclass,
            bInterfaceProtocol=i.interface_protocol,
            iInterface=i.string,
            extra_descriptors=list(i.extra),
        )

    def get_endpoint_descriptor(
        self, dev: Remote, ep: int, intf: int, alt: int, config: int
    ) -> _Fields:
        """Endpoint *ep*, an index."""
        e: EndpointDescriptor = self._interface(dev, intf, alt, config).endpoints[ep]
        companion = e.companion.serialize() if e.companion else b""
        return _Fields(
            bLength=7 + len(e.tail),
            bDescriptorType=DescriptorType.ENDPOINT,
            bEndpointAddress=e.address,
            bmAttributes=e.attributes,
            wMaxPacketSize=e.max_packet_size,
            bInterval=e.interval,
            bRefresh=e.tail[0] if e.tail else 0,
            bSynchAddress=e.tail[1] if len(e.tail) > 1 else 0,
            extra_descriptors=list(companion + e.extra),
        )

    @staticmethod
    def _configuration(dev: Remote, config: int) -> ConfigurationDescriptor:
        if not 0 <= config < len(dev.configurations):
            raise IndexError(f"there is no configuration of index {config}")
        return dev.configurations[config]

    def _interface(
        self, dev: Remote, intf: int, alt: int, config: int
    ) -> InterfaceDescriptor:
        configuration = self._configuration(dev, config)
        number = configuration.interface_numbers[intf]
        settings = [i for i in configuration.interfaces if i.number == number]
        return settings[alt]

    # ------------------------------------------------------------- in use ----

    def open_device(self, dev: Remote) -> Remote:
        """It is open since it was enumerated."""
        if dev.is_gone():
            raise usb_error(UrbStatus.NO_DEVICE)
        return dev

    def close_device(self, dev_handle: Remote) -> None:
        """It stays connected until the program ends or the device goes."""

    def set_configuration(self, dev_handle: Remote, config_value: int) -> None:
        """Select a configuration by its value."""
        dev_handle.control(SetupPacket.set_configuration(config_value))

    def get_configuration(self, dev_handle: Remote) -> int:
        """Return the value of the active configuration, 0 for none."""
        return int(dev_handle.control(SetupPacket.get_configuration()).data[0])

    def set_interface_altsetting(
        self, dev_handle: Remote, intf: int, altsetting: int
    ) -> None:
        """Select an alternate setting."""
        dev_handle.control(SetupPacket.set_interface(intf, altsetting))

    def claim_interface(self, dev_handle: Remote, intf: int) -> None:
        """Claimed with the configuration; nobody else is there."""

    def release_interface(self, dev_handle: Remote, intf: int) -> None:
        """Nothing to do."""

    def clear_halt(self, dev_handle: Remote, ep: int) -> None:
        """Clear a halted endpoint."""
        dev_handle.control(SetupPacket.clear_halt(ep))

    def reset_device(self, dev_handle: Remote) -> None:
        """Reset the port."""
        dev_handle.reset()

    def is_kernel_driver_active(self, dev_handle: Remote, intf: int) -> bool:
        """No kernel here knows the device."""
        return False

    def detach_kernel_driver(self, dev_handle: Remote, intf: int) -> None:
        """Nothing to do."""

    def attach_kernel_driver(self, dev_handle: Remote, intf: int) -> None:
        """Nothing to do."""

    # ----------------------------------------------------------- transfers ----

    def ctrl_transfer(  # noqa: PLR0913 - pyusb's signature
        self,
        dev_handle: Remote,
        bmRequestType: int,  # noqa: N803
        bRequest: int,  # noqa: N803
        wValue: int,  # noqa: N803
        wIndex: int,  # noqa: N803
        data: Any,
        timeout: int,
    ) -> int:
        """A control transfer; *data* is filled for IN."""
        view = memoryview(data).cast("B")
        setup = SetupPacket(bmRequestType, bRequest, wValue, wIndex, len(view))
        if not bmRequestType & 0x80:
            return dev_handle.control(setup, bytes(view), timeout).length
        return _fill(view, dev_handle.control(setup, b"", timeout))

    def bulk_write(
        self, dev_handle: Remote, ep: int, intf: int, data: Any, timeout: int
    ) -> int:
        """A bulk OUT transfer."""
        return self._write(dev_handle, TransferType.BULK, ep, data, timeout)

    def bulk_read(
        self, dev_handle: Remote, ep: int, intf: int, buff: Any, timeout: int
    ) -> int:
        """A bulk IN transfer."""
        return self._read(dev_handle, TransferType.BULK, ep, buff, timeout)

    def intr_write(
        self, dev_handle: Remote, ep: int, intf: int, data: Any, timeout: int
    ) -> int:
        """An interrupt OUT transfer."""
        return self._write(dev_handle, TransferType.INTERRUPT, ep, data, timeout)

    def intr_read(
        self, dev_handle: Remote, ep: int, intf: int, size: Any, timeout: int
    ) -> int:
        """An interrupt IN transfer."""
        return self._read(dev_handle, TransferType.INTERRUPT, ep, size, timeout)

    def iso_write(
        self, dev_handle: Remote, ep: int, intf: int, data: Any, timeout: int
    ) -> int:
        """An isochronous OUT transfer."""
        return self._write(dev_handle, TransferType.ISOCHRONOUS, ep, data, timeout)

    def iso_read(
        self, dev_handle: Remote, ep: int, intf: int, size: Any, timeout: int
    ) -> int:
        """An isochronous IN transfer."""
        return self._read(dev_handle, TransferType.ISOCHRONOUS, ep, size, timeout)

    @staticmethod
    def _write(
        remote: Remote, kind: TransferType, ep: int, data: Any, timeout: int
    ) -> int:
        payload = bytes(memoryview(data).cast("B"))
        return remote.transfer(kind, ep, len(payload), payload, timeout).length

    @staticmethod
    def _read(
        remote: Remote, kind: TransferType, ep: int, buff: Any, timeout: int
    ) -> int:
        view = memoryview(buff).cast("B")
        return _fill(view, remote.transfer(kind, ep, len(view), b"", timeout))


def _fill(view: memoryview, result: UrbResult) -> int:
    view[: len(result.data)] = result.data
    return len(result.data)
