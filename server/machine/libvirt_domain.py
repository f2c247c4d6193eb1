"""A machine as a domain of libvirt: in the user's session, gone when it ends.

The settings are those of the ``.vbox`` file: the domain is made of them each time that
the machine starts.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

from rusb.errors import GuestError, SettingsError

from ..guests._domain import NoDomain, Virsh
from ..vbox.model import Hardware
from ..vbox.settings import Machine
from .domain_xml import card_of, domain_xml, netdev_of
from .process import STOP_TIMEOUT, Qemu

__all__ = ["LibvirtDomain"]

END_POLL = 0.1
"""Seconds between two looks whether a domain is gone, whose QEMU has ended."""

DEFAULT_URI = "qemu:///session"


class LibvirtDomain(Qemu):
    """QEMU, which libvirt starts; the arguments are Qemu's."""

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        log: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(machine, hardware, log, ended)
        uri = "" if os.environ.get("LIBVIRT_DEFAULT_URI") else DEFAULT_URI
        self._virsh = Virsh(uri, machine.uuid.strip("{}"))
        self._is_made = False

    def network_names(self, slot: int) -> tuple[str, str]:
        """Libvirt's names of an adapter's network, and of its card."""
        return netdev_of(slot), card_of(slot)

    # ------------------------------------------------------------- our own ----

    async def _end(self) -> None:
        await self._quit()
        was_made, self._is_made = self._is_made, False
        if was_made:
            with contextlib.suppress(GuestError):
                if not await self._wait_gone():
                    await self._virsh.destroy()
            self._unlink()
        if self._watching is not None:
            await self._watching

    async def _start(self, accelerator: str, incoming: str) -> None:
        """Make the domain and connect to its monitor."""
        await self._virsh.connect()
        uri = self._virsh.uri
        if uri.endswith("/system"):
            raise SettingsError(
                f"machines run in a user's session of libvirt, not at {uri}: start it"
                " as an ordinary user, without LIBVIRT_DEFAULT_URI, or with --engine"
                " qemu"
            )
        await self._end_leftover()
        self._unlink()
        xml = self._describe(domain_xml, accelerator, incoming)
        self._log(f"libvirt: {uri}: {xml}")
        self._is_made = True
        await self._virsh.create(xml)
        self._monitor = await self._connect(self._give_up)

    async def _end_leftover(self) -> None:
        """End the domain of a server that was killed.

        Raises:
            GuestError: there is another one of that UUID.
        """
        try:
            xml = await self._virsh.dump()
        except NoDomain:
            return
        if str(self._sockets[0]) not in xml:
            raise GuestError(
                f"libvirt has another domain with the UUID {self._virsh.domain}: remove"
                f" it with '{self._virsh.command('undefine')}'"
            )
        self._log("libvirt: ending the domain that a killed rusb left behind")
        await self._virsh.destroy()

    async def _give_up(self) -> None:
        try:
            await self._virsh.look()
        except NoDomain as error:
            raise GuestError(self._why_ended()) from error

    async def _wait_gone(self) -> bool:
        """Wait until the domain is gone; False: it is not."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < deadline:
            try:
                await self._virsh.look()
            except NoDomain:
                return True
            await asyncio.sleep(END_POLL)
        return False

    async def _note_end(self) -> None:
        if not self._is_made:
            return
        is_gone = False
        with contextlib.suppress(GuestError):
            is_gone = await self._wait_gone()
        if is_gone and self._is_shut_down:
            self._log("libvirt: the machine is off.")
        else:
            self.failure = self._why_ended()
            self._log(self.failure)
        self._tell_ended()

    def _why_ended(self) -> str:
        return (
            "the domain ended by itself; libvirt's log of it says why"
            f" (~/.cache/libvirt/qemu/log/{self._machine.name}.log)"
        )
