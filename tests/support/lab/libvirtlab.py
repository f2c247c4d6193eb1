"""A libvirt of a test's own, and the lab's guest as one of its domains.

It is the daemon of a user's session, which needs no root; to a root it is another user
in a namespace, since libvirt has no session for root. KVM is not asked for.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.support.lab.assets import LabError, assets, initramfs
from tests.support.lab.usblab import Guest, Shell

__all__ = ["Domain", "Libvirt"]

TIMEOUT = 60.0


class Libvirt:
    """The daemon.

    Attributes:
        dir: everything of it.
        uri: of its domains.
    """

    def __init__(self) -> None:
        # Short: the path of a unix socket holds at most 107 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="virt", dir="/tmp"))
        runtime = self.dir / "run"
        runtime.mkdir(mode=0o700)
        sock = runtime / "libvirt" / "libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={sock}"
        user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        with (self.dir / "libvirtd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *(user if os.geteuid() == 0 else ()),
                    shutil.which("libvirtd", path="/usr/sbin:/usr/bin") or "libvirtd",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(self.dir),
                    "XDG_RUNTIME_DIR": str(runtime),
                },
            )
        try:
            self._wait_for(sock)
        except BaseException:
            self.close()
            raise

    def _wait_for(self, sock: Path) -> None:
        end = time.monotonic() + TIMEOUT
        while not sock.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise LabError((self.dir / "libvirtd.log").read_text())
            time.sleep(0.05)

    def virsh(self, *words: str, given: str = "") -> str:
        """Run virsh and return what it printed.

        Raises:
            LabError: it failed.
        """
        done = subprocess.run(
            ["virsh", "-c", self.uri, *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise LabError(f"virsh {words}: {done.stderr}")
        return done.stdout

    def close(self) -> None:
        """End all domains and the daemon. Idempotent."""
        if self._process.poll() is None:
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                for name in self.virsh("list", "--name").split():
                    with contextlib.suppress(LabError):
                        self.virsh("destroy", name)
            self._process.terminate()
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Domain(Shell):
    """The lab's guest: one that is defined, and started by :meth:`start`."""

    def __init__(self, libvirt: Libvirt, name: str) -> None:
        self.libvirt, self.name = libvirt, name
        self.dir = libvirt.dir / name
        self.dir.mkdir()
        initramfs(self.dir / "initrd", Guest.modules, Guest.init, {})
        libvirt.virsh("define", "/dev/stdin", given=self._xml())
        self._closing = contextlib.ExitStack()

    def _xml(self) -> str:
        return f"""
            <domain type='qemu'>
              <name>{self.name}</name><memory unit='MiB'>128</memory>
              <os>
                <type machine='q35'>hvm</type>
                <loader type='rom'>/usr/share/qemu/qboot.rom</loader>
                <kernel>{assets()}/vmlinux</kernel>
                <initrd>{self.dir}/initrd</initrd>
                <cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline>
              </os>
              <features><acpi/></features>
              <cpu mode='maximum'>
                <feature name='erms' policy='disable'/>
                <feature name='fsrm' policy='disable'/>
              </cpu>
              <devices>
                <controller type='usb' model='qemu-xhci' ports='15'/>
                <serial type='file'><source path='{self.dir}/serial.log'/></serial>
                <channel type='unix'>
                  <source mode='bind' path='{self.dir}/cmd'/>
                  <target type='virtio' name='lab.cmd'/>
                </channel>
                <memballoon model='none'/>
              </devices>
            </domain>"""

    def start(self) -> None:
        """Start it, and wait until it takes commands."""
        self.libvirt.virsh("start", self.name)
        self._closing.close()
        self._port = self._closing.enter_context(socket.socket(socket.AF_UNIX))
        self._port.connect(str(self.dir / "cmd"))
        self._replies = self._closing.enter_context(self._port.makefile("rb"))
        self.ready()

    def kept(self) -> str:
        """What it is when it is started again."""
        return self.libvirt.virsh("dumpxml", "--inactive", self.name)

    def aliases(self) -> list[str]:
        """Of the devices of rusb's that it has now."""
        running = self.libvirt.virsh("dumpxml", self.name)
        return [part.partition("'")[0] for part in running.split("name='ua-rusb")[1:]]

    def wait_free(self) -> None:
        """Wait until there is none; to detach one is a request."""
        end = time.monotonic() + TIMEOUT
        while found := self.aliases():
            if time.monotonic() > end:
                raise LabError(f"still attached: {found}")
            time.sleep(0.05)

    def close(self) -> None:
        """Hang up; the domain ends with its libvirt. Idempotent."""
        self._closing.close()
