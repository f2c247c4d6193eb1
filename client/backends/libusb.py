"""Real devices, through libusb's asynchronous API (package libusb1).

Everything happens on the event loop: libusb's file descriptors are watched by it, and
completions are handed out from there. Only calls that block in the kernel (opening,
claiming, resetting) run in a worker thread, one at a time per device.
"""

import asyncio
import ctypes
import logging
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import libusb_package
import usb1

from rusb.aio.state import state_folder
from rusb.errors import BackendError, DeviceBusy, DeviceGone, NoPermission
from rusb.usb.device import DeviceInfo
from rusb.usb.types import ClassCode, Feature, Request, Speed, TransferType
from rusb.usb.urb import Completion, IsoPacket, Urb, UrbResult, UrbStatus

from ._journal import Journal
from ._sysfs import Sysfs, udev_rule
from .base import DeviceBackend, LocalDevice, OpenDevice

__all__ = ["LibusbBackend"]

log = logging.getLogger(__name__)

CONTROL_TIMEOUT_MS = 5000
"""As hosts allow (USB 2.0, 9.2.6.4); every other transfer waits for ever."""

CLOSE_SECONDS = 2.0
"""Until cancelled transfers must have come back."""

RESCAN_SECONDS = 2.0
"""How often to look for new devices where libusb cannot tell of them."""

SETTLE_SECONDS = 0.4
"""After a plug event the kernel still binds drivers and makes nodes."""

MAX_ISO_PACKETS = 1024
"""Packets of one isochronous URB."""

_STATUSES = {
    usb1.TRANSFER_COMPLETED: UrbStatus.OK,
    usb1.TRANSFER_STALL: UrbStatus.STALL,
    usb1.TRANSFER_OVERFLOW: UrbStatus.OVERFLOW,
    usb1.TRANSFER_TIMED_OUT: UrbStatus.TIMEOUT,
    usb1.TRANSFER_CANCELLED: UrbStatus.CANCELLED,
    usb1.TRANSFER_NO_DEVICE: UrbStatus.NO_DEVICE,
}

_SUBMIT_ERRORS = {
    usb1.ERROR_NO_DEVICE: UrbStatus.NO_DEVICE,
    usb1.ERROR_NOT_FOUND: UrbStatus.INVALID,
    usb1.ERROR_INVALID_PARAM: UrbStatus.INVALID,
}

_SPEEDS = {
    usb1.SPEED_LOW: Speed.LOW,
    usb1.SPEED_FULL: Speed.FULL,
    usb1.SPEED_HIGH: Speed.HIGH,
    usb1.SPEED_SUPER: Speed.SUPER,
    usb1.SPEED_SUPER + 1: Speed.SUPER,
}


def _load() -> None:
    """Load libusb once.

    usb1 does not list a device if libusb cannot parse one of its configurations; here
    such a configuration counts as one that is not there. Nobody here asks for it.
    """
    if not usb1.loadLibrary(ctypes.CDLL(str(libusb_package.get_library_path()))):
        return
    get = usb1.libusb1.libusb_get_config_descriptor

    def get_parsable(device: object, index: int, found: object) -> int:
        result: int = get(device, index, found)
        return min(result, 0) and usb1.ERROR_NOT_FOUND

    usb1.libusb1.libusb_get_config_descriptor = get_parsable


class _Open(OpenDevice):
    """A device in use."""

    def __init__(
        self,
        name: str,
        address: int,
        handle: usb1.USBDeviceHandle,
        sysfs: Sysfs,
        journal: Journal,
        closed: Callable[["_Open"], None],
    ) -> None:
        self._name = name
        self._address = address
        self._handle: usb1.USBDeviceHandle | None = handle
        self._sysfs = sysfs
        self._journal = journal
        self._closed = closed
        self._in_flight: dict[int, usb1.USBTransfer] = {}
        self._spare: list[usb1.USBTransfer] = []
        self._claimed: set[int] = set()
        self._detached: dict[int, str] = {}
        self._is_closing = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ URB path ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self._handle is None or self._is_closing:
            complete(UrbResult(UrbStatus.NO_DEVICE))
            return
        if urb.id in self._in_flight:
            complete(UrbResult(UrbStatus.INVALID))
            return
        if urb.setup is not None and self._is_special(urb):
            self._run_request(urb, complete)
            return
        is_iso = urb.type is TransferType.ISOCHRONOUS
        if is_iso and not 0 < len(urb.packets) <= MAX_ISO_PACKETS:
            complete(UrbResult(UrbStatus.INVALID))
            return
        if is_iso or not self._spare:
            transfer = self._handle.getTransfer(len(urb.packets))
        else:
            transfer = self._spare.pop()
        try:
            self._fill(transfer, urb, complete)
            transfer.submit()
        except usb1.USBError as error:
            self._keep(transfer, urb)
            complete(UrbResult(_SUBMIT_ERRORS.get(error.value, UrbStatus.IO_ERROR)))
            return
        self._in_flight[urb.id] = transfer

    def _fill(self, transfer: usb1.USBTransfer, urb: Urb, complete: Completion) -> None:
        def done(transfer: usb1.USBTransfer) -> None:
            self._completed(transfer, urb, complete)

        setup = urb.setup
        payload: int | bytearray = urb.length if urb.is_in else bytearray(urb.data)
        if setup is not None:
            transfer.setControl(
                setup.request_type,
                setup.request,
                setup.value,
                setup.index,
                urb.length if urb.is_in else bytes(urb.data),
                done,
                timeout=CONTROL_TIMEOUT_MS,
            )
        elif urb.type is TransferType.BULK:
            transfer.setBulk(urb.endpoint, payload, done)
        elif urb.type is TransferType.INTERRUPT:
            transfer.setInterrupt(urb.endpoint, payload, done)
        else:
            transfer.setIsochronous(
                urb.endpoint,
                payload,
                done,
                iso_transfer_length_list=list(urb.packets),
            )

    def _completed(
        self, transfer: usb1.USBTransfer, urb: Urb, complete: Completion
    ) -> None:
        """A transfer came back; libusb calls this from its event handling."""
        self._in_flight.pop(urb.id, None)
        status = _STATUSES.get(transfer.getStatus(), UrbStatus.IO_ERROR)
        if urb.type is TransferType.ISOCHRONOUS:
            result = _iso_result(transfer, urb, status)
        else:
            length = transfer.getActualLength()
            data = transfer.getBuffer()[:length] if urb.is_in else b""
            result = UrbResult(status, data, length)
        self._keep(transfer, urb)
        if self._is_closing and not self._in_flight:
            self._idle.set()
        complete(result)

    def _keep(self, transfer: usb1.USBTransfer, urb: Urb) -> None:
        """Keep a transfer for the next URB; isochronous ones have a fixed size."""
        if urb.type is not TransferType.ISOCHRONOUS and not self._is_closing:
            self._spare.append(transfer)

    def cancel(self, urb_id: int) -> None:
        transfer = self._in_flight.get(urb_id)
        if transfer is not None:
            try:
                transfer.cancel()
            except usb1.USBError as error:  # it is on its way back already
                log.debug("%s: cancel: %s", self._name, error)

    # -------------------------------------------- requests that need libusb ----

    @staticmethod
    def _is_special(urb: Urb) -> bool:
        """Must libusb know of this control request?"""
        assert urb.setup is not None
        match urb.setup.request_type, urb.setup.request:
            case (0x00, Request.SET_CONFIGURATION) | (0x01, Request.SET_INTERFACE):
                return True
            case 0x02, Request.CLEAR_FEATURE:
                return urb.setup.value == Feature.ENDPOINT_HALT
        return False

    def _run_request(self, urb: Urb, complete: Completion) -> None:
        async def run() -> None:
            setup = urb.setup
            assert setup is not None
            status = UrbStatus.OK
            try:
                if setup.request == Request.SET_CONFIGURATION:
                    await self.set_configuration(setup.value & 0xFF)
                elif setup.request == Request.SET_INTERFACE:
                    await self.set_interface(setup.index & 0xFF, setup.value & 0xFF)
                else:
                    await self.clear_halt(setup.index & 0xFF)
            except DeviceGone:
                status = UrbStatus.NO_DEVICE
            except BackendError:
                status = UrbStatus.STALL
            complete(UrbResult(status))

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(
        self, what: str, call: Callable[[usb1.USBDeviceHandle], None]
    ) -> None:
        """Run a blocking libusb call in a thread and translate its errors."""
        handle = self._handle
        if handle is None:
            raise DeviceGone(f"device {self._name} is closed")
        try:
            await asyncio.to_thread(call, handle)
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
            self._journal.add(self._name, self._address, interface, driver or "")
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
        for urb_id in list(self._in_flight):
            self.cancel(urb_id)
        if self._in_flight:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._idle.wait()
            except TimeoutError:
                log.error("%s: transfers do not come back", self._name)
        for task in list(self._tasks):
            task.cancel()
        handle, self._handle = self._handle, None
        self._spare.clear()
        await asyncio.to_thread(self._give_back, handle)
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
                log.error("%s: driver of %d: %s", self._name, number, error)
                continue  # the journal's next reader tries again
            self._journal.remove(self._name, number)
        self._detached.clear()


def _iso_result(transfer: usb1.USBTransfer, urb: Urb, status: UrbStatus) -> UrbResult:
    packets, pieces = [], []
    setups = transfer.getISOSetupList()
    buffers = transfer.getISOBufferList() if urb.is_in else [b""] * len(setups)
    for setup, buffer in zip(setups, buffers, strict=True):
        length = setup["actual_length"]
        found = _STATUSES.get(setup["status"], UrbStatus.IO_ERROR)
        packets.append(IsoPacket(length, found))
        pieces.append(bytes(buffer[:length]))
    data = b"".join(pieces)
    length = sum(p.length for p in packets)
    return UrbResult(status, data, length, tuple(packets))


class LibusbBackend(DeviceBackend):
    """All devices of this machine that libusb sees, hubs left out.

    Args:
        address: not used; libusb needs none.
        sysfs: where to look for what libusb does not tell; other places in tests.
        state: folder of the journal of detached drivers.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        sysfs: Sysfs | None = None,
        state: Path | None = None,
    ) -> None:
        super().__init__(address)
        if address:
            raise BackendError(f"libusb takes no address, {address!r} was given")
        self._sysfs = sysfs or Sysfs()
        self._journal = Journal((state or state_folder()) / "detached", self._sysfs)
        self._context: usb1.USBContext | None = None
        self._devices: dict[str, usb1.USBDevice] = {}
        self._open: set[_Open] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._changed: Callable[[], None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._watched: set[int] = set()

    # ---------------------------------------------------------- event loop ----

    def _get_context(self) -> usb1.USBContext:
        """Open libusb and let the loop watch its file descriptors, once."""
        if self._context is not None:
            return self._context
        _load()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        context = usb1.USBContext()
        try:
            context.open()
        except usb1.USBError as error:
            raise BackendError(
                f"libusb cannot be started: {error}; is /dev/bus/usb there?"
            ) from error
        self._context = context
        context.setPollFDNotifiers(self._fd_added, self._fd_removed)
        for fd, events in context.getPollFDList():
            self._watch_fd(fd, events)
        for line in self._journal.recover():
            log.warning("%s", line)
        return context

    def _fd_added(self, fd: int, events: int, user_data: object) -> None:
        self._on_loop(self._watch_fd, fd, events)

    def _fd_removed(self, fd: int, user_data: object) -> None:
        self._on_loop(self._unwatch_fd, fd)

    def _on_loop(self, call: Callable[..., None], *args: int) -> None:
        assert self._loop is not None
        if threading.get_ident() == self._thread:
            call(*args)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _watch_fd(self, fd: int, events: int) -> None:
        assert self._loop is not None
        self._watched.add(fd)
        if events & select.POLLIN:
            self._loop.add_reader(fd, self._handle_events)
        if events & select.POLLOUT:
            self._loop.add_writer(fd, self._handle_events)

    def _unwatch_fd(self, fd: int) -> None:
        assert self._loop is not None
        self._watched.discard(fd)
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    def _handle_events(self) -> None:
        if self._context is not None:
            try:
                self._context.handleEventsTimeout(0)
            except usb1.USBError as error:
                log.error("libusb: %s", error)

    # -------------------------------------------------------------- devices ----

    async def list_devices(self) -> list[LocalDevice]:
        context = self._get_context()
        try:
            found = context.getDeviceList(skip_on_error=True)
        except usb1.USBError as error:
            raise BackendError(f"libusb cannot list devices: {error}") from error
        devices, listed = {}, []
        for device in found:
            if device.getDeviceClass() == ClassCode.HUB:
                continue
            local = self._describe(device)
            devices[local.key] = device
            listed.append(local)
        self._devices = devices
        return sorted(listed, key=lambda d: (d.info.bus, d.info.address))

    def _describe(self, device: usb1.USBDevice) -> LocalDevice:
        bus, address = device.getBusNumber(), device.getDeviceAddress()
        path = tuple(device.getPortNumberList())
        name = _name_of(bus, path)
        info = DeviceInfo(
            id=0,
            vendor_id=device.getVendorID(),
            product_id=device.getProductID(),
            bcd_device=device.getbcdDevice(),
            bcd_usb=device.getbcdUSB(),
            device_class=device.getDeviceClass(),
            device_subclass=device.getDeviceSubClass(),
            device_protocol=device.getDeviceProtocol(),
            manufacturer=self._sysfs.text(name, "manufacturer"),
            product=self._sysfs.text(name, "product"),
            serial=self._sysfs.text(name, "serial"),
            speed=_SPEEDS.get(device.getDeviceSpeed(), Speed.UNKNOWN),
            port=path[-1] if path else 0,
            bus=bus,
            address=address,
            port_path=path,
        )
        return LocalDevice(f"{name}@{address}", info, self._problem(name, info))

    def _problem(self, name: str, info: DeviceInfo) -> str | None:
        node = self._sysfs.node(info.bus, info.address)
        if node.exists() and not os.access(node, os.R_OK | os.W_OK):
            rule = udev_rule(info.vendor_id, info.product_id)
            return f"no permission for {node}: {rule}"
        in_use = None if self.force else self._sysfs.in_use(name)
        if in_use is not None:
            return f"{in_use}: unmount it first, or use --force"
        return None

    async def open(self, device: LocalDevice) -> OpenDevice:
        found = self._devices.get(device.key)
        if found is None:
            raise DeviceGone(f"{device.info} was unplugged")
        info = device.info
        name = _name_of(info.bus, info.port_path)
        in_use = None if self.force else self._sysfs.in_use(name)
        if in_use is not None:
            raise DeviceBusy(f"{info}: {in_use}: unmount it first, or use --force")
        try:
            handle = await asyncio.to_thread(found.open)
        except usb1.USBErrorAccess as error:
            raise NoPermission(
                f"no permission to open {info}:"
                f" {udev_rule(info.vendor_id, info.product_id)}"
            ) from error
        except (usb1.USBErrorNoDevice, usb1.USBErrorNotFound) as error:
            raise DeviceGone(f"{info} was unplugged") from error
        except usb1.USBError as error:
            raise BackendError(f"cannot open {info}: {error}") from error
        opened = _Open(
            name, info.address, handle, self._sysfs, self._journal, self._open.discard
        )
        self._open.add(opened)
        return opened

    # ------------------------------------------------------------- hot-plug ----

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        context = self._get_context()
        if context.hasCapability(usb1.CAP_HAS_HOTPLUG):
            context.hotplugRegisterCallback(self._plugged, flags=0)
        else:
            self._rescan()

    def _plugged(
        self, context: usb1.USBContext, device: usb1.USBDevice, event: int
    ) -> bool:
        """Tell at once, and again when the kernel has done its part."""
        assert self._loop is not None
        if self._changed is not None:
            self._loop.call_soon(self._changed)
            self._timers = [t for t in self._timers if not t.cancelled()][-8:]
            self._timers.append(self._loop.call_later(SETTLE_SECONDS, self._changed))
        return False

    def _rescan(self) -> None:
        assert self._loop is not None
        if self._changed is not None:
            self._changed()
            self._timers = [self._loop.call_later(RESCAN_SECONDS, self._rescan)]

    async def aclose(self) -> None:
        self._changed = None
        for timer in self._timers:
            timer.cancel()
        for opened in list(self._open):
            await opened.aclose()
        context, self._context = self._context, None
        if context is not None:
            self._devices.clear()
            for fd in list(self._watched):
                self._unwatch_fd(fd)
            context.close()


def _name_of(bus: int, path: tuple[int, ...]) -> str:
    """The kernel's name of a device: ``1-2.4``."""
    return f"{bus}-{'.'.join(map(str, path)) or '0'}"


PLUGIN = LibusbBackend
