"""What every emulated device has: descriptors, standard requests, endpoints.

Subclass :class:`EmulatedDevice`, describe it with descriptors and answer the hooks
``control``, ``data_out``, ``data_in``, ``iso_out`` and ``iso_in``. Everything runs on
the event loop's thread; hooks must not block for long.
"""

from collections.abc import Sequence

from rusb.usb.bos import BosDescriptor
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.types import Speed
from rusb.usb.urb import Completion, Urb, UrbStatus

from .endpoints import Data, Endpoints
from .standard import SUPER_SPEED_BOS, Features, answer

__all__ = ["Data", "EmulatedDevice"]


class EmulatedDevice:
    """A USB device in this process.

    Args:
        descriptors: device and configurations, as this speed has them.
        strings: text by string index from 1 on, in US English.
        speed: what the device runs at.
        port: where to plug it in; 0: wherever there is room.
        bos: answered to GET_DESCRIPTOR(BOS); None: at SuperSpeed one that says so.

    Attributes:
        state: selected configuration and alternate settings.
    """

    def __init__(
        self,
        descriptors: DeviceDescriptors,
        strings: Sequence[str] = (),
        *,
        speed: Speed = Speed.HIGH,
        port: int = 0,
        bos: BosDescriptor | None = None,
    ) -> None:
        if bos is None and speed >= Speed.SUPER:
            bos = SUPER_SPEED_BOS
        self.descriptors = descriptors
        self.strings = tuple(strings)
        self.speed = speed
        self.port = port
        self.bos = bos
        self.state = DeviceState(descriptors)
        self.features = Features()
        self._endpoints = Endpoints(self)

    # ----------------------------------------------------------------- hooks ----

    def attached(self) -> None:
        """It is being plugged in.

        Raises:
            BackendError: it cannot work (its image file is not there).
        """

    def detached(self) -> None:
        """It was unplugged; let go of files and timers."""

    def was_reset(self) -> None:
        """The port was reset, or a configuration selected: forget transfers."""

    def halt_cleared(self, endpoint: int) -> None:
        """The host cleared a halt; ``halt`` it again if the class demands so."""

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer a request that chapter 9 of USB does not define.

        Args:
            setup: the request.
            data: its OUT data stage.

        Returns:
            The IN data stage (cut at wLength), ``b""`` for none; None stalls.
        """
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Take data from a bulk or interrupt endpoint.

        Copy what is to be kept. To wait (NAK) return False and ``kick`` the endpoint
        later: the same data come again. To stall call ``halt`` and return False.
        """
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Supply data for a bulk or interrupt endpoint.

        Asked when the host waits for up to *room* bytes. The data go out in packets;
        the transfer ends when they fill the room or end with a short packet, and
        what does not fit waits for the next. ``b""`` is a zero-length packet. None:
        nothing yet (NAK); ``kick`` the endpoint, or ``send``, later; or a stall, if
        it is halted. What was given before a halt is still delivered. Data must not
        change once they are given.
        """
        return None

    def iso_out(self, endpoint: int, packets: list[Data]) -> None:
        """Take the packets of an isochronous transfer; copy what is to be kept."""

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """Supply as many packets, each of up to the length given."""
        return [b""] * len(lengths)

    # -------------------------------------------------------- for the device ----

    def send(self, endpoint: int, data: Data) -> bool:
        """Queue data for an IN endpoint, as if ``data_in`` had returned them.

        Returns:
            False, and the data are lost, while there is no such endpoint.
        """
        return self._endpoints.send(endpoint, data)

    def kick(self, endpoint: int) -> None:
        """Look again whether waiting transfers of the endpoint can go on."""
        self._endpoints.kick(endpoint)

    def halt(self, endpoint: int) -> None:
        """Halt a bulk or interrupt endpoint: transfers stall until it is cleared."""
        self._endpoints.set_halt(endpoint, is_halted=True)

    def is_halted(self, endpoint: int) -> bool:
        """Is the endpoint halted?"""
        return self._endpoints.is_halted(endpoint)

    # ---------------------------------------------------------- for the host ----

    def string(self, index: int) -> str | None:
        """Return the text of a string index."""
        return self.strings[index - 1] if 1 <= index <= len(self.strings) else None

    def info(self, port: int, address: int) -> DeviceInfo:
        """Identity, as the host sees it at *port* of bus 1."""
        device = self.descriptors.device
        return DeviceInfo(
            0,
            device.vendor_id,
            device.product_id,
            bcd_device=device.bcd_device,
            bcd_usb=device.bcd_usb,
            device_class=device.device_class,
            device_subclass=device.device_subclass,
            device_protocol=device.device_protocol,
            manufacturer=self.string(device.manufacturer),
            product=self.string(device.product),
            serial=self.string(device.serial),
            speed=self.speed,
            port=port,
            bus=1,
            address=address,
            port_path=(port,),
        )

    def request(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer any control request, standard ones included; as ``control``."""
        return answer(self, setup, data)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as :meth:`OpenDevice.submit` says."""
        self._endpoints.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        """Complete a waiting URB with CANCELLED and what it has received."""
        self._endpoints.cancel(urb_id)

    def reset_port(self) -> None:
        """Reset; the configuration is restored, waiting URBs are cancelled."""
        self.features = Features()
        active = self.state.configuration
        self._select(active.value if active else None)

    def power_on(self) -> None:
        """Start in the first configuration, as an operating system leaves it."""
        self.features = Features()
        configurations = self.descriptors.configurations
        self._select(configurations[0].value if configurations else None)

    def power_off(self) -> None:
        """Unplugged: waiting URBs complete with NO_DEVICE."""
        self._select(None, UrbStatus.NO_DEVICE)

    def set_configuration(self, value: int) -> bool:
        """Select a configuration, 0 for none; False if there is none such."""
        if value and self.descriptors.configuration(value) is None:
            return False
        self._select(value)
        return True

    def set_interface(self, number: int, alternate: int) -> bool:
        """Select an alternate setting; False if there is none such."""
        before = [i for i in self.state.interfaces if i.number == number]
        if not self.state.select_interface(number, alternate):
            return False
        after = [i for i in self.state.interfaces if i.number == number]
        self._endpoints.replace(
            [e.address for i in before for e in i.endpoints],
            [e for i in after for e in i.endpoints],
        )
        return True

    def clear_halt(self, endpoint: int) -> bool:
        """Clear a halt; False if there is no such endpoint."""
        if endpoint & 0x7F and endpoint not in self.state.endpoints:
            return False
        self._endpoints.set_halt(endpoint, is_halted=False)
        return True

    def _select(
        self, value: int | None, status: UrbStatus = UrbStatus.CANCELLED
    ) -> None:
        before = list(self.state.endpoints)
        if value is None:
            self.state.unconfigure()
        else:
            self.state.select_configuration(value)
        self.was_reset()
        self._endpoints.replace(before, list(self.state.endpoints.values()), status)
