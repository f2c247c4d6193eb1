"""Boot real Linux USB stacks under QEMU, without root (docs/spec/qemu-lab.md).

:class:`Guest` is a machine that remote devices are plugged into, :class:`Client` one
that owns devices and runs the host's own programs. Both take shell commands and
uploads through a virtio-serial port. Create them in the main thread: they are killed
when the thread that made them ends.
"""

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self, TypeVar

from tests.support.lab.assets import (
    CLIENT,
    GUEST,
    LabError,
    assets,
    initramfs,
    module_order,
    program,
)

__all__ = ["QMP", "VM", "Client", "Guest", "LabError", "Shell", "pick_accel"]

_T = TypeVar("_T")

BOOT_TIMEOUT = 200.0
COMMAND_TIMEOUT = 60.0

_INIT_COMMON = r"""#!/bin/busybox sh
export PATH=/bin:/sbin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
ifconfig lo 127.0.0.1 up
while read m; do
  insmod /m/$m.ko || echo "LAB insmod $m failed" >/dev/console
done </m/order
echo 0 >/sys/module/usb_storage/parameters/delay_use
P9="trans=virtio,version=9p2000.L,msize=512000"
"""

_INIT_GUEST = (
    _INIT_COMMON
    + r"""
grep -q lab.share /proc/cmdline && mount -t 9p -o $P9,cache=none labshare /mnt
for p in /sys/class/virtio-ports/*; do
  [ "$(cat $p/name)" = lab.cmd ] && P=/dev/${p##*/}
done
exec 3<>$P
read up rest </proc/uptime; echo "READY $up" >&3
while IFS= read -r line <&3; do
  case "$line" in
  "PUT "*)
     set -- $line
     dd iflag=fullblock bs=$2 count=1 of="$3" <&3 2>/dev/null
     echo "R $? 0" >&3;;
  *) sh -c "$line" >/run/out 2>&1 </dev/null 3>&-; rc=$?
     { echo "R $rc $(stat -c %s /run/out)"; cat /run/out; } >&3;;
  esac
done
poweroff -f
"""
)

_INIT_CLIENT = (
    _INIT_COMMON
    + r"""
PY=$(sed -n 's/.*lab\.python=\([^ ]*\).*/\1/p' /proc/cmdline)
mkdir -p /ro /rw /new
mount -t 9p -o $P9,cache=loose,ro hostroot /ro
mount -t tmpfs -o mode=755 rw /rw; mkdir /rw/u /rw/w
mount -t overlay -o lowerdir=/ro,upperdir=/rw/u,workdir=/rw/w overlay /new
mount -t tmpfs run /new/run
cp /runner.py /new/run/runner.py
if grep -q lab.share /proc/cmdline; then
  mkdir -p /new/run/share; mount -t 9p -o $P9,cache=none labshare /new/run/share
fi
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && route add default gw 10.0.2.2
umount /dev/pts
for d in proc sys dev; do mount --move /$d /new/$d; done
mount -t devpts pts /new/dev/pts
export HOME=/root LANG=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec switch_root /new $PY -S -E -B /run/runner.py
"""
)

# Output goes to a file, not a pipe: children may outlive the command.
_RUNNER = r"""
import glob, os, subprocess
for d in glob.glob('/sys/class/virtio-ports/*'):
    if open(d + '/name').read().strip() == 'lab.cmd':
        fd = os.open('/dev/' + os.path.basename(d), os.O_RDWR)
buf = b''
def more():
    global buf
    buf += os.read(fd, 1 << 20)
def take(n):
    global buf
    while len(buf) < n: more()
    d, buf = buf[:n], buf[n:]
    return d
def reply(rc, data=b''):
    data = b'R %d %d\n' % (rc, len(data)) + data
    while data: data = data[os.write(fd, data):]
os.write(fd, b'READY ' + open('/proc/uptime', 'rb').read().split()[0] + b'\n')
while True:
    while b'\n' not in buf: more()
    line = take(buf.index(b'\n') + 1)[:-1].decode()
    if line.startswith('PUT '):
        _, n, path = line.split(' ', 2)
        data = take(int(n))
        with open(path, 'wb') as f: f.write(data)
        reply(0)
    else:
        with open('/run/out', 'w+b') as f:
            rc = subprocess.call(['/bin/sh', '-c', line],
                                 stdin=subprocess.DEVNULL, stdout=f, stderr=f)
            f.seek(0); out = f.read()
        reply(rc & 255, out)
"""


class QMP:
    """A synchronous QMP client of a few lines, independent of the one under test."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(COMMAND_TIMEOUT)
        self._file = self._socket.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        self._file.readline()
        self("qmp_capabilities")

    def __call__(self, execute: str, **arguments: Any) -> Any:
        """Run a command and return what it returned; events pile up meanwhile.

        Raises:
            LabError: QEMU refused.
        """
        command = {"execute": execute, "arguments": arguments}
        self._file.write(json.dumps(command).encode() + b"\n")
        self._file.flush()
        while True:
            reply = json.loads(self._file.readline())
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise LabError(f"{execute}: {reply['error']['desc']}")
            else:
                return reply["return"]

    def hmp(self, line: str) -> str:
        """Run a command of the human monitor and return what it printed."""
        return str(self("human-monitor-command", **{"command-line": line}))

    def wait_event(self, name: str, timeout: float = 20, **match: Any) -> None:
        """Wait for (and take) an event whose data holds *match*.

        Raises:
            TimeoutError: it did not come; this client is of no use any more.
        """
        end = time.monotonic() + timeout
        while True:
            for event in self.events:
                data = event.get("data", {})
                if event["event"] == name and match.items() <= data.items():
                    self.events.remove(event)
                    return
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            self.events.append(json.loads(self._file.readline()))
            self._socket.settimeout(COMMAND_TIMEOUT)

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()


class Shell:
    """A machine's command port: runs lines of shell, and takes files.

    Attributes:
        dir: its private folder; short, for the sockets in it.
    """

    dir: Path
    _port: socket.socket
    _replies: BinaryIO

    def ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until a machine made with ``wait=0`` takes commands.

        Raises:
            LabError: it did not come up.
        """
        self._port.settimeout(timeout)
        try:
            line = self._replies.readline()
        except OSError as error:
            raise LabError(f"not ready in {timeout} s: {self.logs()}") from error
        if not line.startswith(b"READY"):
            raise LabError(self.logs())

    def logs(self) -> str:
        """The end of what QEMU and the machine's serial console said."""
        paths = (self.dir / "qemu.log", self.dir / "serial.log")
        texts = [p.read_text(errors="replace")[-4000:] for p in paths if p.exists()]
        return "\n".join(texts)

    def _reply(self) -> tuple[int, str]:
        head = self._replies.readline().split()
        if len(head) != 3:
            raise LabError(f"machine died: {self.logs()}")
        output = self._replies.read(int(head[2]))
        return int(head[1]), output.decode(errors="replace")

    def _run(self, command: str, timeout: float) -> tuple[int, str]:
        assert "\n" not in command
        self._port.settimeout(timeout)
        self._port.sendall(command.encode() + b"\n")
        return self._reply()

    def sh(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run one line in the machine; return what it printed to both outputs.

        Raises:
            LabError: its exit status was not 0.
        """
        status, output = self._run(command, timeout)
        if status:
            raise LabError(f"{command!r} exited {status}: {output}")
        return output

    def ok(self, command: str, timeout: float = COMMAND_TIMEOUT) -> bool:
        """Run one line; is its exit status 0?"""
        return self._run(command, timeout)[0] == 0

    def wait(self, command: str, timeout: float = COMMAND_TIMEOUT) -> None:
        """Wait until a command exits with 0.

        It runs a fifth of the time: its machine has one processor, emulated at that.
        Where others keep the host busy, it runs more often than that.

        Raises:
            LabError: it never did; with the end of the kernel's log.
        """
        asked = time.monotonic()
        end = asked + timeout
        while not self.ok(command):
            now = time.monotonic()
            if now > end:
                log = self.sh("dmesg | tail -20")
                raise LabError(f"never true: {command!r}; {log}")
            time.sleep(min(max(0.05, 4 * (now - asked)), 1.5))
            asked = time.monotonic()

    def put(self, path: str, data: bytes) -> None:
        """Write a file in the machine."""
        self._port.settimeout(COMMAND_TIMEOUT)
        self._port.sendall(b"PUT %d %s\n" % (len(data), path.encode()) + data)
        if self._reply()[0]:
            raise LabError(f"cannot write {path}")


class VM(Shell):
    """A virtual machine that takes commands; base of :class:`Guest`, :class:`Client`.

    Args:
        extra: further arguments for QEMU.
        accel: ``tcg`` or ``kvm``; None finds out.
        memory: MiB.
        share: a folder of the host that the machine sees (read and write).
        append: more of the kernel's command line.
        incoming: start from a saved state instead of booting.
        controller: the USB controller; None for none.
        wait: seconds to wait for it to come up; 0: call :meth:`ready` later.

    Attributes:
        qmp: the lab's own QMP connection.
        monitor: path of a second QMP socket, for programs under test.
    """

    modules: ClassVar[tuple[str, ...]] = GUEST
    init: ClassVar[str] = _INIT_GUEST
    files: ClassVar[dict[str, bytes]] = {}
    programs: ClassVar[tuple[str, ...]] = ()  # of the host, to be had in it
    memory: ClassVar[int] = 128

    def __init__(
        self,
        *extra: str,
        accel: str | None = None,
        memory: int | None = None,
        share: Path | None = None,
        append: str = "",
        incoming: str | None = None,
        controller: str | None = "qemu-xhci,id=xhci,p2=15,p3=15",
        wait: float = BOOT_TIMEOUT,
    ) -> None:
        cache = assets()
        self.accel = accel or pick_accel()
        # Short: the path of a unix socket holds at most 107 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))
        self.monitor = str(self.dir / "monitor")
        files = dict(self.files)
        for name in self.programs:
            files |= program(name)
        initramfs(self.dir / "initrd", self.modules, self.init, files)
        command = [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-accel", self.accel, "-cpu", self._cpu()),
            *("-machine", "q35", "-m", str(memory or self.memory)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            # SeaBIOS would enumerate redirected disks itself and is slower.
            *("-bios", "/usr/share/qemu/qboot.rom"),
            *("-kernel", str(cache / "vmlinux"), "-initrd", f"{self.dir}/initrd"),
            # on a busy host the kernel finds its timer broken, and panics
            "-append",
            "console=ttyS0 quiet panic=-1 no_timer_check "
            f"{'lab.share ' if share else ''}{append}",
            *("-serial", f"file:{self.dir}/serial.log"),
            *("-qmp", f"unix:{self.dir}/qmp,server=on,wait=off"),
            *("-qmp", f"unix:{self.monitor},server=on,wait=off"),
            *("-chardev", f"socket,id=cmd,path={self.dir}/cmd,server=on,wait=off"),
            *("-device", "virtio-serial-pci,id=vs"),
            *("-device", "virtserialport,bus=vs.0,chardev=cmd,name=lab.cmd"),
        ]
        if controller:
            command += ["-device", controller]
        if share:
            command += ["-fsdev", f"local,id=share,path={share},security_model=none"]
            command += ["-device", "virtio-9p-pci,fsdev=share,mount_tag=labshare"]
        if incoming:
            command += ["-incoming", incoming]
        with open(self.dir / "qemu.log", "wb") as log:
            self.process = subprocess.Popen(
                [*command, *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._closing = contextlib.ExitStack()
        try:
            self._connect()
            if not incoming and wait:
                self.ready(wait)
            elif incoming and incoming.startswith("exec:"):
                self._wait_thawed()
        except BaseException:
            self.close()
            raise

    def _cpu(self) -> str:
        """The CPU model; REP MOVSB, which ERMS makes popular, is slow under TCG."""
        return "host" if self.accel == "kvm" else "max,-erms,-fsrm"

    def _connect(self) -> None:
        self.qmp = self._retry(lambda: QMP(str(self.dir / "qmp")))
        self._closing.callback(self.qmp.close)
        self._port = self._closing.enter_context(socket.socket(socket.AF_UNIX))
        self._retry(lambda: self._port.connect(str(self.dir / "cmd")))
        self._replies = self._closing.enter_context(self._port.makefile("rb"))

    def _retry(self, call: Callable[[], _T], timeout: float = 20) -> _T:
        end = time.monotonic() + timeout
        while True:
            try:
                return call()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise LabError(self.logs()) from error
                time.sleep(0.01)

    def _wait_thawed(self) -> None:
        """Wait: a usb-redir that is plugged in while "inmigrate" says no hello."""
        while self.qmp("query-status")["status"] == "inmigrate":
            time.sleep(0.01)

    def migrate(self, uri: str) -> None:
        """Save or move the machine's state, wait until that is done."""
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 4 << 30})
        self.qmp("migrate", uri=uri)
        while True:
            state = self.qmp("query-migrate")
            if state["status"] == "completed":
                return
            if state["status"] in ("failed", "cancelled"):
                raise LabError(str(state))
            time.sleep(0.01)

    def add_usb_redir(self, id: str, path: str, **properties: Any) -> None:
        """Hot-plug a usb-redir device that listens on a unix socket."""
        address = {"type": "unix", "data": {"path": path}}
        data = {"addr": address, "server": True, "wait": False}
        backend = {"type": "socket", "data": data}
        self.qmp("chardev-add", id=f"c{id}", backend=backend)
        properties = {"chardev": f"c{id}", "bus": "xhci.0", **properties}
        self.qmp("device_add", driver="usb-redir", id=id, **properties)

    def add_disk(self, id: str, image: Path, **properties: Any) -> None:
        """Hot-plug a USB disk of QEMU's own."""
        node = {"node-name": f"n{id}", "driver": "raw"}
        file = {"driver": "file", "filename": str(image)}
        self.qmp("blockdev-add", **node, file=file)
        properties = {"drive": f"n{id}", "bus": "xhci.0", **properties}
        self.qmp("device_add", driver="usb-storage", id=id, **properties)

    def unplug(self, id: str) -> None:
        """Remove a hot-plugged device and wait until it is gone."""
        self.qmp("device_del", id=id)
        self.qmp.wait_event("DEVICE_DELETED", device=id)

    def remove_disk(self, id: str) -> None:
        """Unplug what :meth:`add_disk` made; its image can be used again."""
        self.unplug(id)
        self.qmp("blockdev-del", **{"node-name": f"n{id}"})

    def close(self) -> None:
        """Kill it and remove its folder. Idempotent."""
        self._closing.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Guest(VM):
    """The machine a redirected device is plugged into: busybox, nothing else."""

    def load(self, *names: str) -> None:
        """Load more modules."""
        loaded = {line.split()[0] for line in self.sh("cat /proc/modules").splitlines()}
        for name in module_order(names):
            if name not in loaded:
                self.put(
                    "/tmp/module", (assets() / "modules" / f"{name}.ko").read_bytes()
                )
                self.sh("insmod /tmp/module")


class Client(VM):
    """The machine that owns devices.

    Its root is the host's, read-only over 9p, with a tmpfs on top: every program of
    the host is there at its own path. ``10.0.2.2`` is the host's loopback. A file the
    machine has read once keeps that content, whatever becomes of it on the host.
    """

    modules: ClassVar[tuple[str, ...]] = CLIENT
    init = _INIT_CLIENT
    files: ClassVar[dict[str, bytes]] = {"runner.py": _RUNNER.encode()}
    memory = 256

    def __init__(self, *extra: str, append: str = "", **options: Any) -> None:
        root = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
        super().__init__(
            *("-netdev", "user,id=n0"),
            *("-device", "virtio-net-pci,netdev=n0,romfile="),
            *("-fsdev", root),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"),
            *extra,
            append=f"lab.python={os.path.realpath(sys.executable)} {append}",
            **options,
        )

    def ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until it takes commands; its clock is the host's then."""
        super().ready(timeout)
        self.sh(f"date -s @{time.time():.0f} >/dev/null")

    def modprobe(self, *names: str) -> None:
        """Load more modules."""
        loaded = {line.split()[0] for line in self.sh("cat /proc/modules").splitlines()}
        for name in module_order(names):
            if name not in loaded:
                self.sh(f"{assets()}/busybox insmod {assets()}/modules/{name}.ko")


@functools.cache
def pick_accel() -> str:
    """``kvm`` where a stock kernel really boots under it, otherwise ``tcg``.

    RUSB_LAB_ACCEL decides instead. A KVM that can be opened proves nothing: nested
    ones exist that emulate every instruction (docs/spec/qemu-lab.md 2).
    """
    wanted = os.environ.get("RUSB_LAB_ACCEL", "auto")
    if wanted != "auto":
        return wanted
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    if not any(Path(f"/sys/module/kvm_{v}").exists() for v in ("intel", "amd")):
        return "tcg"
    try:
        with Guest(accel="kvm", wait=6):
            return "kvm"
    except LabError:
        return "tcg"
