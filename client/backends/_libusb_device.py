"""One real device in use, through libusb."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import usb1

from rusb.errors import BackendError, DeviceGone
from rusb.oserrors import reason
from rusb.usb.backend import OpenDevice
from rusb.usb.queue import status_of
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Feature, Request, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from ._journal import Journal
from ._kernel_memory import KernelMemory
from ._sysfs import Sysfs
from ._transfers import Transfer, Transfers

__all__ = ["OpenUsbDevice"]

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""Until cancelled transfers must have come back."""

MAX_ISO_PACKETS = 1024
"""Packets of one isochronous URB."""

_ISOCHRONOUS = TransferType.ISOCHRONOUS

_SUBMIT_ERRORS = {
    usb1.ERROR_NO_DEVICE: UrbStatus.NO_DEVICE,
    usb1.ERROR_NOT_FOUND: UrbStatus.INVALID,
    usb1.ERROR_INVALID_PARAM: UrbStatus.INVALID,
}


class OpenUsbDevice(OpenDevice):
    """A device in use."""

    def __init__(
        self,
        name: str,
        address: int,
        handle: usb1.USBDeviceHandle,
        sysfs: Sysfs,
        journal: Journal,
        memory: KernelMemory,
        closed: Callable[["OpenUsbDevice"], None],
    ) -> None:
        self._name = name
        self._address = address
        self._handle: usb1.USBDeviceHandle | None = handle
        self._sysfs = sysfs
        self._journal = journal
        self._memory = memory
        self._closed = closed
        self._transfers = Transfers(handle, self._returned)
        self._in_flight: dict[int, Transfer] = {}
        self._claimed: set[int] = set()
        self._detached: dict[int, str] = {}
        self._is_closing = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = ThreadPoolExecutor(1, f"usb {name}")

    # ------------------------------------------------------------ URB path ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self._handle is None or self._is_closing:
            complete(UrbResult(UrbStatus.NO_DEVICE))
            return
        if urb.id in self._in_flight:
            complete(UrbResult(UrbStatus.INVALID))
            return
        setup = urb.setup
        if setup is not None and setup.request_type < 0x03 and self._is_special(setup):
            self._run_request(urb, setup, complete)
            return
        self._memory.submit(self, urb, complete)

    def start(self, urb: Urb, complete: Completion) -> bool:
        """Submit to the kernel; False: it has no room now, nothing was done."""
        if self._handle is None or self._is_closing:
            complete(UrbResult(UrbStatus.NO_DEVICE))
            return True
        is_iso = urb.type is _ISOCHRONOUS
        if is_iso and not 0 < len(urb.packets) <= MAX_ISO_PACKETS:
            complete(UrbResult(UrbStatus.INVALID))
            return True
        started = self._transfers.start(urb, complete)
        if started == usb1.ERROR_NO_MEM:
            return False
        if isinstance(started, int):
            complete(UrbResult(_SUBMIT_ERRORS.get(started, UrbStatus.IO_ERROR)))
            return True
        self._memory.took(urb)
        self._in_flight[urb.id] = started
        return True

    def is_idle(self, endpoint: int) -> bool:
        """Has the kernel nothing of an endpoint?"""
        return all(t.urb.endpoint != endpoint for t in self._in_flight.values())

    def _returned(self, transfer: Transfer) -> None:
        """A transfer came back; libusb calls this from its event handling."""
        urb, complete, result = transfer.urb, transfer.complete, transfer.result()
        self._transfers.keep(transfer)
        del self._in_flight[urb.id]
        if self._is_closing and not self._in_flight:
            self._idle.set()
        complete(result)
        self._memory.gave_back(self, urb)

    def cancel(self, urb_id: int) -> None:
        self._memory.cancel(self, urb_id)
        transfer = self._in_flight.get(urb_id)
        if transfer is not None and (error := self._transfers.cancel(transfer)):
            # it is on its way back already
            log.debug("%s: cancel: %s", self._name, usb1.USBError(error))

    # -------------------------------------------- requests that need libusb ----

    @staticmethod
    def _is_special(setup: SetupPacket) -> bool:
        """Must libusb know of this control request?"""
        match setup.request_type, setup.request:
            case (0x00, Request.SET_CONFIGURATION) | (0x01, Request.SET_INTERFACE):
                return True
            case 0x02, Request.CLEAR_FEATURE:
                return setup.value == Feature.ENDPOINT_HALT
        return False

    def _run_request(self, urb: Urb, setup: SetupPacket, complete: Completion) -> None:
        if setup.request == Request.SET_CONFIGURATION:
            work = self.set_configuration(setup.value & 0xFF)
        elif setup.request == Request.SET_INTERFACE:
            work = self.set_interface(setup.index & 0xFF, setup.value & 0xFF)
        else:
            work = self.clear_halt(setup.index & 0xFF)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            is_closed = task.cancelled()  # maybe before it began
            status = UrbStatus.NO_DEVICE if is_closed else status_of(task.exception())
            complete(UrbResult(status))

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _call(
        self, what: str, call: Callable[[usb1.USBDeviceHandle], None]
    ) -> None:
        """Run a blocking libusb call in the device's thread; translate its errors."""
        handle = self._handle
        if handle is None:
            raise DeviceGone(f"device {self._name} is closed")
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._calls, call, handle)
        except (usb1.USBErrorNoDevice, usb1.USBErrorIO) as error:
            if isinstance(error, usb1.USBErrorNoDevice):
                raise DeviceGone(f"device {self._name} was unplugged") from error
            raise BackendError(f"{what} of device {self._name}: {error}") from error
        except usb1.USBError as error:
            raise BackendError(f"{what} of device {self._name}: {error}") from error

    async def set_configuration(self, value: int) -> None:
        await self._call(
            "selecting a configuration", lambda h: self._configure(h, value)
        )

    def _configure(self, handle: usb1.USBDeviceHandle, value: int) -> None:
        """Select unless it is selected: drivers and claims would be in the way."""
        if handle.getConfiguration() == value:
            return
        for number in list(self._claimed):
            handle.releaseInterface(number)
        self._claimed.clear()
        for number in range(32):
            self._detach(handle, number)
        handle.setConfiguration(value or -1)

    async def claim_interface(self, interface: int) -> None:
        await self._call(f"claiming interface {interface}", self._claim(interface))

    def _claim(self, interface: int) -> Callable[[usb1.USBDeviceHandle], None]:
        def claim(handle: usb1.USBDeviceHandle) -> None:
            if interface not in self._claimed:
                self._detach(handle, interface)
                handle.claimInterface(interface)
                self._claimed.add(interface)

        return claim

    def _detach(self, handle: usb1.USBDeviceHandle, interface: int) -> None:
        """Take an interface from its kernel driver, with a note of it first."""
        driver = self._sysfs.driver(self._name, interface)
        try:
            if driver == "usbfs" or not handle.kernelDriverActive(interface):
                return
        except usb1.USBErrorNoDevice:
            raise
        except usb1.USBError:
            return  # no such interface, or no kernel drivers on this system
        if interface not in self._detached:
            self._note(
                lambda journal: journal.add(
                    self._name, self._address, interface, driver or ""
                )
            )
        handle.detachKernelDriver(interface)
        self._detached[interface] = driver or ""

    async def release_interface(self, interface: int) -> None:
        def release(handle: usb1.USBDeviceHandle) -> None:
            if interface in self._claimed:
                self._claimed.discard(interface)
                handle.releaseInterface(interface)

        await self._call(f"releasing interface {interface}", release)

    async def set_interface(self, interface: int, alternate: int) -> None:
        await self._call(
            f"alternate setting {alternate} of interface {interface}",
            lambda h: h.setInterfaceAltSetting(interface, alternate),
        )

    async def clear_halt(self, endpoint: int) -> None:
        await self._call(
            f"clearing endpoint {endpoint:#04x}", lambda h: h.clearHalt(endpoint)
        )

    async def reset(self) -> None:
        def reset(handle: usb1.USBDeviceHandle) -> None:
            try:
                handle.resetDevice()
            except usb1.USBErrorNotFound:  # it came back as another device
                raise usb1.USBErrorNoDevice from None

        await self._call("reset", reset)

    # -------------------------------------------------------------- the end ----

    async def aclose(self) -> None:
        if self._handle is None or self._is_closing:
            return
        self._is_closing = True
        self._memory.cancel(self)
        for urb_id in list(self._in_flight):
            self.cancel(urb_id)
        if self._in_flight:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._idle.wait()
            except TimeoutError:
                log.error("%s: cancelled transfers do not complete", self._name)
        for task in list(self._tasks):
            task.cancel()
        handle, self._handle = self._handle, None
        self._transfers.close()
        # behind a call that is under way: no task that is cancelled stops it
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._calls, self._give_back, handle)
        self._calls.shutdown(wait=False)
        handle.close()
        self._closed(self)

    def _give_back(self, handle: usb1.USBDeviceHandle) -> None:
        """Release every interface and bind the kernel drivers again."""
        for number in self._claimed:
            try:
                handle.releaseInterface(number)
            except usb1.USBError as error:
                log.debug("%s: release %d: %s", self._name, number, error)
        self._claimed.clear()
        for number in self._detached:
            try:
                handle.attachKernelDriver(number)
            except (usb1.USBErrorNoDevice, usb1.USBErrorNotFound):
                pass  # unplugged: nothing to give back
            except usb1.USBErrorBusy:
                pass  # somebody has it again
            except usb1.USBError as error:
                log.error(
                    "%s: cannot give interface %d back to its driver: %s",
                    self._name,
                    number,
                    error,
                )
                continue  # the journal's next reader tries again
            self._strike_out(number)
        self._detached.clear()

    def _strike_out(self, interface: int) -> None:
        self._note(lambda journal: journal.remove(self._name, interface))

    def _note(self, write: Callable[[Journal], None]) -> None:
        """Write into the journal; a full disk keeps nobody from the device."""
        try:
            write(self._journal)
        except OSError as error:
            log.warning(
                "%s: %s: if rusb is killed now, device %s must be plugged in again to"
                " get its driver back",
                *(self._journal.path, reason(error), self._name),
            )
