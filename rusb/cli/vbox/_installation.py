"""What ``list`` says of this host, and of what machines can have here."""

import datetime
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from rusb.server.vbox.hardware import MAX_CPUS, MAX_MEMORY
from rusb.server.vbox.kept import MAX_VIDEO_MEMORY
from rusb.server.vbox.model import ports_of
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import MAX_MONITORS

from .storage import MAX_SIZE

__all__ = ["host_lines", "property_lines"]

_BUSES = {"ide": "IDE", "sata": "SATA", "scsi": "SCSI", "floppy": "Floppy"}


def _row(label: str, value: object) -> str:
    return f"{label + ':':<32} {value}".rstrip()


def property_lines(registry: Registry) -> Iterator[str]:
    """Yield ``list systemproperties``."""
    yield _row("API version", "7_0")
    yield _row("Minimum guest RAM size", "1 Megabytes")
    yield _row("Maximum guest RAM size", f"{MAX_MEMORY} Megabytes")
    yield _row("Minimum video RAM size", "0 Megabytes")
    yield _row("Maximum video RAM size", f"{MAX_VIDEO_MEMORY} Megabytes")
    yield _row("Maximum guest monitor count", MAX_MONITORS)
    yield _row("Minimum guest CPU count", 1)
    yield _row("Maximum guest CPU count", MAX_CPUS)
    yield _row("Virtual disk limit (info)", f"{MAX_SIZE << 20} Bytes")
    yield _row("Maximum Serial Port count", 1)
    yield _row("Maximum Parallel Port count", 0)
    yield _row("Maximum Boot Position", 4)
    yield _row("Maximum PIIX3 Network Adapter count", 8)
    for bus, name in _BUSES.items():
        ports, devices = ports_of(bus)
        yield _row(f"Maximum {name} Port count", ports)
        yield _row(f"Maximum Devices per {name} Port", devices)
    yield _row("Default machine folder", registry.machine_folder)
    yield _row("Raw-mode Supported", "no")
    yield _row("Exclusive HW virtualization use", "off")
    yield _row("Default hard disk format", "VDI")
    library = registry.get_property("VRDEAuthLibrary") or "VBoxAuth"
    yield _row("VRDE auth library", library)
    yield _row("Webservice auth. library", "")
    yield _row("Remote desktop ExtPack", registry.get_property("defaultVRDEExtPack"))
    yield _row("Log history count", 3)
    yield _row("Default frontend", "headless")
    yield _row("Default audio driver", "Null")
    yield _row("Autostart database path", "")
    yield _row("Default Guest Additions ISO", "")


# --------------------------------------------------------------------- host ----


def host_lines(processors: str | None = None, memory: str | None = None) -> list[str]:
    """Return ``list hostinfo``; what the host does not say is left out.

    Args:
        processors: what ``/proc/cpuinfo`` has, for tests.
        memory: the same of ``/proc/meminfo``.
    """
    processors = _read("/proc/cpuinfo") if processors is None else processors
    memory = _read("/proc/meminfo") if memory is None else memory
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    found = ["Host Information:", "", f"Host time: {now}"]
    models = re.findall(r"^model name\s*: (.*)", processors, re.M)
    speeds = re.findall(r"^cpu MHz\s*: ([0-9]+)", processors, re.M)
    count = len(models) or os.cpu_count() or 1
    pairs = re.findall(
        r"^physical id\s*: ([0-9]+)$.*?^core id\s*: ([0-9]+)$", processors, re.M | re.S
    )
    cores = len(set(pairs)) or count
    found += [f"Processor online count: {count}", f"Processor count: {count}"]
    found += [f"Processor online core count: {cores}", f"Processor core count: {cores}"]
    flags = set(re.findall(r"^flags\s*: (.*)", processors, re.M)[:1])
    words = set(" ".join(flags).split())
    for label, any_of in (
        ("HW virtualization", {"vmx", "svm"}),
        ("PAE", {"pae"}),
        ("long mode", {"lm"}),
        ("nested paging", {"ept", "npt"}),
    ):
        if words:
            answer = "yes" if words & any_of else "no"
            found.append(f"Processor supports {label}: {answer}")
    for number, model in enumerate(models):
        if number < len(speeds):
            found.append(f"Processor#{number} speed: {speeds[number]} MHz")
        found.append(f"Processor#{number} description: {model}")
    for label, name in (("size", "MemTotal"), ("available", "MemAvailable")):
        if size := re.search(rf"^{name}:\s+([0-9]+) kB", memory, re.M):
            found.append(f"Memory {label}: {int(size[1]) >> 10} MByte")
    found.append(f"Operating system: {platform.system()}")
    found.append(f"Operating system version: {platform.release()}")
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
