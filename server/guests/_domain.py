"""A domain of libvirt, asked by virsh: calls with bounded waits, errors that help."""

import asyncio
import os
import pwd
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit
from xml.etree import ElementTree

from rusb.errors import GuestError, Hint
from rusb.oserrors import reason
from rusb.usb.text import clean_text

from ._buses import Bus, best_first, kind_of

__all__ = ["CONTROLLER", "Domain", "NoDomain", "Redirection", "Virsh"]

TIMEOUT = 30.0
"""Seconds until virsh must have ended; it takes 0.02, but 8 where a session's daemon
has to be started first and looks at each QEMU that there is."""

MAX_TEXT = 300
"""Characters of virsh's own words in a message of ours."""

CONTROLLER = "controller "
"""How the name of a bus begins; its number in the domain follows."""


class NoDomain(GuestError):
    """There is no domain of that name (any more)."""


@dataclass(frozen=True, slots=True)
class Redirection:
    """A redirected device of a domain.

    Attributes:
        place: where QEMU has connected to: a path, or a port of TCP; None: elsewhere.
        port: of the USB controller, ``3``; may be empty.
    """

    place: str | int | None
    port: str


@dataclass(frozen=True, slots=True)
class Domain:
    """How a domain is.

    Attributes:
        names: its name and its UUID.
        run: another one each time that it runs; empty while it does not.
        buses: its USB controllers, the best first.
        user: the number of QEMU's user, if QEMU is kept away from our files by that
            or by a security module; None: it is not.
        redirections: by alias.
    """

    names: tuple[str, str]
    run: str
    buses: tuple[Bus, ...]
    user: int | None
    redirections: Mapping[str, Redirection]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``virsh dumpxml`` prints.

        Raises:
            GuestError: that is no domain's XML.
        """
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise GuestError(f"virsh printed no XML: {error}") from error
        return cls(
            (root.findtext("name", ""), root.findtext("uuid", "")),
            root.get("id", ""),
            tuple(_buses(root)),
            _user(root),
            {
                alias.get("name", ""): _redirection(found)
                for found in root.findall("devices/redirdev")
                if (alias := found.find("alias")) is not None
            },
        )


def _buses(root: ElementTree.Element) -> list[Bus]:
    found, shared = [], set()
    for controller in root.findall("devices/controller[@type='usb']"):
        name = CONTROLLER + controller.get("index", "0")
        kind = kind_of(controller.get("model", ""))
        if controller.find("master") is not None:
            shared.add(name)
        elif kind is not None:
            found.append((name, kind))
    return best_first(Bus(name, kind, name in shared) for name, kind in found)


def _user(root: ElementTree.Element) -> int | None:
    labels = root.findall("seclabel")
    if all(label.get("type") == "none" for label in labels):
        return None
    for label in labels:
        if label.get("model") == "dac":
            user = label.findtext("label", "").partition(":")[0]
            if user.startswith("+") and user[1:].isdecimal():
                return int(user[1:])
            try:
                return pwd.getpwnam(user).pw_uid
            except (KeyError, ValueError):
                break
    return os.geteuid()  # that of the daemon, if it is ours


def _redirection(found: ElementTree.Element) -> Redirection:
    place: str | int | None = None
    source, address = found.find("source"), found.find("address")
    if source is not None and source.get("mode") == "connect":
        place, port = source.get("path"), source.get("service", "")
        if source.get("host") == "127.0.0.1" and port.isdecimal():
            place = int(port)
    return Redirection(place, address.get("port", "") if address is not None else "")


class Virsh:
    """Asks libvirt about one domain, and changes it.

    Args:
        uri: of the hypervisor; empty: libvirt's default.
        domain: its name, UUID or number.
        program: another virsh.
    """

    def __init__(self, uri: str, domain: str, program: str = "virsh") -> None:
        self.uri = uri
        self.domain = domain
        self._program = program

    def command(self, word: str) -> str:
        """Return how a user does that with the domain."""
        return f"virsh -c {shlex.quote(self.uri)} {word} {shlex.quote(self.domain)}"

    async def connect(self) -> None:
        """See whether libvirt is there, on this machine.

        Raises:
            GuestError: it is not so, and what to do about it.
        """
        if self.uri:
            check_uri(self.uri)
        if os.geteuid() == 0 and self.uri == "qemu:///session":
            raise GuestError(
                "root has no session of libvirt: run rusb as the user whose domain it"
                " is, or name one of qemu:///system"
            )
        self.uri = (await self._run("uri")).strip()
        check_uri(self.uri)

    async def check(self) -> Domain:
        """See whether libvirt is there, on this machine, and the domain runs.

        Raises:
            GuestError: it is not so, and what to do about it.
        """
        await self.connect()
        try:
            domain = await self.look()
        except NoDomain as error:
            listed = (await self._run("list", "--all", "--name")).split("\n")
            names = ", ".join(clean_text(name) for name in listed if name)
            raise NoDomain(f"{error}; it has {names or 'none'}").hinting(
                Hint.OTHER_GUEST_ADDRESS
            ) from error
        if self.domain not in domain.names:  # a number, which is of this run
            self.domain = domain.names[0]
        if not domain.run:
            raise GuestError(
                f"the domain {self.domain!r} is off: start it with"
                f" '{self.command('start')}'"
            )
        return domain

    async def look(self) -> Domain:
        """See how the domain is.

        Raises:
            NoDomain: it is gone.
            GuestError: libvirt does not answer.
        """
        return Domain.parse(await self.dump())

    async def dump(self) -> str:
        """Return the domain's XML, as it is now.

        Raises:
            NoDomain: it is gone.
            GuestError: libvirt does not answer.
        """
        return await self._run("dumpxml", self._named())

    async def create(self, xml: str) -> None:
        """Define and start a domain that is gone when it ends.

        Raises:
            GuestError: it does not start.
        """
        await self._run("create", "--file=/dev/stdin", given=xml)

    async def destroy(self) -> None:
        """End the domain at once.

        Raises:
            GuestError: that failed.
        """
        await self._run("destroy", self._named())

    async def attach(self, xml: str) -> None:
        """Plug a device into the domain as it runs; its settings stay as they are.

        Raises:
            GuestError: it was refused.
        """
        words = "attach-device", self._named(), "--file=/dev/stdin", "--live"
        await self._run(*words, given=xml)

    async def detach(self, alias: str) -> None:
        """Unplug the device of that name.

        Raises:
            GuestError: that failed.
        """
        words = "detach-device-alias", self._named(), f"--alias={alias}", "--live"
        await self._run(*words)

    # ------------------------------------------------------------- our own ----

    def _named(self) -> str:
        return f"--domain={self.domain}"

    async def _run(self, *words: str, given: str = "") -> str:
        """Run virsh and return what it printed.

        Args:
            given: what it finds in the file /dev/stdin, which it opens anew: a pipe
                of asyncio's is a socket, of which that is impossible.
        """
        program = shutil.which(self._program)
        if program is None:
            raise GuestError(
                "virsh is not installed; on Debian: apt-get install"
                " --no-install-recommends libvirt-clients"
            )
        command = [program, *(["--connect", self.uri] if self.uri else []), *words]
        with os.fdopen(os.memfd_create("given"), "w+b") as file:
            file.write(given.encode())
            file.seek(0)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=file,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=True,  # it has no terminal to ask for a password
                )
            except OSError as error:
                raise GuestError(f"virsh cannot be run: {reason(error)}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                said, errors = await process.communicate()
        except TimeoutError as error:
            raise GuestError(
                f"virsh {words[0]} did not end within {TIMEOUT:g} s: libvirt's daemon"
                " does not answer"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise self._explained(words[0], errors.decode(errors="replace"))
        return said.decode(errors="replace")

    def _explained(self, word: str, errors: str) -> GuestError:
        """Say what virsh complained about, and what to do."""
        lines = [
            clean_text(line.removeprefix("error: ")) for line in errors.split("\n")
        ]
        text = "; ".join(filter(None, lines))[:MAX_TEXT]
        where = self.uri or "its default URI"
        if "failed to get domain" in text or "Domain not found" in text:
            return NoDomain(f"there is no domain {self.domain!r} at {where}")
        for sign, advice in _ADVICE.items():
            if sign in text:
                return GuestError(advice.format(where=where, text=text))
        return GuestError(f"virsh {word} failed: {text}")


_ADVICE = {
    "authentication": "no permission to use libvirt at {where}: add the user to the"
    " group libvirt and log in again, or name a domain of the user's own with"
    " qemu:///session,DOMAIN ({text})",
    "Failed to connect socket": "libvirt does not run at {where}: start it (systemctl"
    " start libvirtd; on Debian: apt-get install libvirt-daemon-system) ({text})",
    "No free USB ports": "all USB ports of the domain are in use: unplug another"
    " device, or give its controller more ports with 'virsh edit' (<controller"
    " type='usb' model='qemu-xhci' ports='15'/>), which count when the domain is"
    " started again",
    "USB redirection is not supported": "the QEMU of the domain has no usb-redir:"
    " install it (Fedora: qemu-device-usb-redirect; it is part of Debian's QEMU)"
    " ({text})",
}
"""What virsh says, in part, and what we say in its place."""


def check_uri(uri: str) -> None:
    """Refuse what is no QEMU of this machine.

    Raises:
        GuestError: why it cannot be used.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise GuestError(f"{clean_text(uri)!r} is no URI of libvirt") from None
    if parts.netloc:
        host = clean_text(parts.netloc)
        raise GuestError(
            f"the domain must be on this machine, not on {host}: its QEMU connects to"
            f" rusb over a socket that only this machine has. Run rusb serve on {host}"
        )
    local = parts.scheme in ("qemu", "qemu+unix")
    if not local or parts.path not in ("/system", "/session"):
        raise GuestError(
            f"{clean_text(uri)!r} cannot be used; choose qemu:///system or"
            " qemu:///session"
        ).hinting(Hint.OTHER_GUEST_ADDRESS)
