"""A program of somebody who has a serial port and pyserial, and nothing of rusb.

``serial_program.py PORT JSON``; PORT may be the number of a vendor, of which it takes
the first port. It prints what it found as JSON. Pins of the port's plug are joined.
"""

import json
import sys
import time
from collections.abc import Callable

import serial
from serial.tools import list_ports


def find(port: str) -> str:
    if not port.startswith("vendor="):
        return port
    vendor = int(port.removeprefix("vendor="), 16)
    return next(str(p.device) for p in list_ports.comports() if p.vid == vendor)


def wait(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def exchange(port: serial.Serial, size: int) -> bool:
    """Send so many bytes in a few pieces; do they come back?"""
    data = bytes(range(256)) * (size // 256)
    back = b""
    for start in range(0, size, 2048):
        port.write(data[start : start + 2048])
        back += port.read(min(2048, size - start))
    return back == data


def main() -> None:
    wanted = json.loads(sys.argv[2])
    found: dict[str, object] = {}
    with serial.serial_for_url(find(sys.argv[1]), 57600, timeout=30) as port:
        found["exchange"] = exchange(port, wanted["size"])
        for mark, baud, bits, parity, stop, rtscts in wanted["steps"]:
            port.baudrate, port.bytesize, port.parity = baud, bits, parity
            port.stopbits, port.rtscts = stop, rtscts
            port.write(mark.encode())
            found[mark] = port.read(1) == mark.encode()
        port.rtscts = False
        for dtr, rts in wanted["lines"]:
            port.dtr, port.rts = dtr, rts
            name = f"dtr={dtr} rts={rts}"
            if wanted["has_cts"]:
                found[f"{name}: cts"] = wait(lambda r=rts: port.cts is r)  # type: ignore[misc]
            found[f"{name}: dsr"] = wait(lambda d=dtr: port.dsr is d)  # type: ignore[misc]
            found[f"{name}: cd"] = wait(lambda d=dtr: port.cd is d)  # type: ignore[misc]
        if wanted["breaks"]:
            port.send_break(0.05)
        port.reset_input_buffer()
        port.reset_output_buffer()
        port.write(b"z")
        found["z"] = port.read(1) == b"z"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
