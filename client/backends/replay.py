"""Devices out of a capture: what a device answered is answered again.

A file of usbmon (``tcpdump -i usbmon1 -w FILE``, Wireshark) stands for devices that
nobody here has (docs/spec/captures.md).
"""

import re
from pathlib import Path

from rusb.errors import BackendError, ParseError
from rusb.oserrors import reason
from rusb.usb.types import ClassCode

from ._capture import read_capture
from ._replayed import ReplayedDevice
from .emulated import EmulatedBackend

__all__ = ["ReplayBackend"]

MAX_FILE = 1 << 30
"""Bytes of a file, which is read whole."""

_OPTION = re.compile(r"(.*),(device|speed)=([^,]*)", re.DOTALL)
_IDS = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}")


class ReplayBackend(EmulatedBackend):
    """The devices of a capture, hubs left out.

    Args:
        address: ``FILE[,device=VID:PID][,speed=FACTOR]``. Reports of interrupt
            endpoints come at the distance that they had, divided by FACTOR; 0: at once.
    """

    def __init__(self, address: str | None = None) -> None:
        path, wanted, speed = _parse(address or "")
        super().__init__(devices=_devices(path, wanted, speed))
        self.address = address


def _parse(text: str) -> tuple[Path, str | None, float]:
    wanted, speed = None, 1.0
    while found := _OPTION.fullmatch(text):
        text, name, value = found.groups()
        if name == "device":
            if not _IDS.fullmatch(value):
                raise BackendError(f"replay: device={value} must be device=VID:PID")
            wanted = value.lower()
            continue
        try:
            speed = float(value)
        except ValueError:
            speed = -1
        if not 0 <= speed < 1e6:
            raise BackendError(f"replay: speed={value} must be a number, 0 or more")
    if not text:
        raise BackendError("the backend replay needs replay:FILE[,device=VID:PID]")
    return Path(text), wanted, speed


def _devices(path: Path, wanted: str | None, speed: float) -> list[ReplayedDevice]:
    try:
        if not path.is_file():
            raise BackendError(f"replay: {path} is not a file")
        if path.stat().st_size > MAX_FILE:
            raise BackendError(f"replay: {path} has more than {MAX_FILE >> 20} MiB")
        captured = read_capture(path.read_bytes())
    except OSError as error:
        raise BackendError(f"replay: {path}: {reason(error)}") from error
    except ParseError as error:
        raise BackendError(f"replay: {path}: {error}") from error
    found, troubles = list[ReplayedDevice](), list[str]()
    names = []
    for one in captured:
        try:
            device = ReplayedDevice(one, speed)
        except ParseError as error:
            troubles.append(f"device {one.address} of bus {one.bus}: {error}")
            continue
        head = device.descriptors.device
        name = f"{head.vendor_id:04x}:{head.product_id:04x}"
        if head.device_class != ClassCode.HUB:
            names.append(name)
            if wanted in (None, name):
                found.append(device)
    if not found:
        why = "; ".join(troubles[:5]) or "no transfers of a device are in it"
        if names:
            why = f"it has no {wanted}, but {', '.join(names)}"
        raise BackendError(f"replay: {path}: {why}")
    return found


PLUGIN = ReplayBackend
