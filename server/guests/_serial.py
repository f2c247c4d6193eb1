"""What guests have in common that take serial ports instead of devices."""

import itertools
import logging
import re
from abc import abstractmethod

from rusb.errors import GuestError
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import Urb, UrbResult, UrbStatus

from ..serial.chips import CHIPS, find_ports
from ..serial.port import SerialPort
from .base import AttachedDevice, GuestBackend

__all__ = ["SerialGuest", "SerialPlace", "port_name"]

log = logging.getLogger(__name__)

MAX_NAME = 100
"""Characters of the name of a port; a device may say what it wants."""


class SerialPlace:
    """Where programs find a port; it has the port's callbacks."""

    port: SerialPort

    @abstractmethod
    def describe(self) -> str:
        """Say where it is, for the log."""

    @abstractmethod
    def close(self) -> None:
        """The device goes: programs see a hang-up. Idempotent."""


class SerialGuest(GuestBackend):
    """Gives each serial port of each device a place."""

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._places: dict[str, list[SerialPlace]] = {}

    @abstractmethod
    async def open_place(self, device: AttachedDevice, port: SerialPort) -> SerialPlace:
        """Make a place for a port.

        Raises:
            GuestError: there is none.
        """

    async def attach(self, device: AttachedDevice) -> str:
        """Configure the device and give its ports places.

        Raises:
            GuestError: no chip of it is known, or there is no place.
        """
        drivers = find_ports(device.descriptors)
        if not drivers:
            raise GuestError(
                f"{device.info} is no serial port of a kind that rusb drives itself"
                f" ({CHIPS}); the guest vhci gives it to the drivers of Linux"
            )
        ids = itertools.count(1)
        ports = [SerialPort(device, driver, ids) for driver in drivers]

        def press(is_high: bool) -> None:
            for port in ports:
                port.press(is_high=is_high)

        device.watch_pressure(press)
        value = device.descriptors.configurations[0].value
        setup = SetupPacket.set_configuration(value)
        device.submit(Urb.control(next(ids), setup), lambda r: _configured(device, r))
        self._places[device.name] = places = []
        try:
            for port in ports:
                places.append(await self.open_place(device, port))
        except BaseException:
            await self.detach(device)
            raise
        return ", ".join(place.describe() for place in places)

    async def detach(self, device: AttachedDevice) -> None:
        """Hang up on the programs and remove the places."""
        self._close(device.name)

    async def aclose(self) -> None:
        """Hang up on all."""
        for name in list(self._places):
            self._close(name)

    def _close(self, name: str) -> None:
        for place in self._places.pop(name, []):
            place.port.gone()
            place.close()


def _configured(device: AttachedDevice, result: UrbResult) -> None:
    if result.status not in (UrbStatus.OK, UrbStatus.NO_DEVICE):
        name = result.status.name
        log.warning("%s: SET_CONFIGURATION failed: %s", device.name, name)


def port_name(device: AttachedDevice, port: SerialPort) -> str:
    """Return a name that a port has whenever it is plugged in, as udev makes it in
    /dev/serial/by-id: ``usb-FTDI_FT232R_USB_UART_A50285BI-if00``."""
    info = device.info
    words = [info.manufacturer, info.product, info.serial]
    if not info.product:
        words = [f"{info.vendor_id:04x}", f"{info.product_id:04x}", info.serial]
    text = "_".join(word for word in words if word)
    text = re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_")[:MAX_NAME]
    return f"usb-{text}-if{port.driver.interface.number:02}"
