"""What a client does: which server it connects to, as whom, with which devices."""

from dataclasses import dataclass, field
from pathlib import Path

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.rdp.client import Screen

__all__ = ["ClientConfig"]

MAX_CHANNELS, MAX_NAME = 24, 7
"""Of static channels, of which RDP has 31 in all, and of one's name (2.2.1.3.4.1)."""

_SECURITY = ("tls", "rdp", "none")
_RANGES = {
    "port": (1, 0xFFFF),
    "width": (1, 0xFFFF),
    "height": (1, 0xFFFF),
    "experience": (0, 0xFFFF_FFFF),
}
_CHOICES = {"depth": (8, 15, 16, 24, 32), "version": (4, 5)}


@dataclass(slots=True)
class ClientConfig:
    """Everything that :func:`rusb.client.connect` needs to know.

    Attributes:
        host: name or address of the server.
        port: TCP port.
        user, domain, password: credentials; ``domain`` may end in ``@N``.
        client_name: the name of this machine; up to 15 characters are sent;
            empty: the host's name.
        shell, directory: alternate shell and working directory; VRDP ignores them.
        width, height, depth: the screen that is requested from the server.
        screen: gets what the server draws; None: the server is asked not to draw.
        is_usb_only: without a screen: say that there is no input either, so that our
            server takes the connection and a viewer of the same user for one client.
        version: 5, or 4 for RDP 4, which has no channels and so no USB.
        experience: performance flags of the client info.
        console: ask for the console session.
        compression: ask for RDP compression (never granted by VRDP).
        leave_sound: sound is to stay at the server (``-r sound:remote``).
        usb: offer USB devices.
        wires: names of the wire protocols to offer them over; the first that the server
            speaks is taken, and for isochronous devices one that carries them.
        channels: names of further static channels to ask for.
        backends: where devices come from, ``NAME[:ADDRESS]``.
        filters: what may be offered: a device that one of them admits; none: all.
        excluded: what may not be offered: a device that one of them admits.
        wants_all: offer also what this machine itself uses: boot keyboards and mice,
            the disk of its root file system, the network adapter of the connection.
        force: offer and take devices that are in use (mounted file systems).
        security: what to try, in this order, each on a connection of its own: ``tls``,
            ``rdp`` (standard security, RC4: weak), ``none`` (all in clear).
        legacy_tls: take servers that know nothing newer than TLS 1.0.
        ca: PEM file with the authorities to trust; None: trust on first use.
        known_servers: file of the pins; None: in the user's state folder.
        certificate: SHA-256 of the only one that the server may show, besides what *ca*
            or the pins say; empty: any.
        timeout: seconds for the whole way until the connection is active.
        reconnect: come back when the connection breaks: to what the server keeps for a
            while, or anew.
        usb_timeout: seconds of an active connection after which a server that has
            said nothing about USB is taken to have none; VRDP servers may need 40
            (vrdpusb.md S1).
    """

    host: str
    port: int = 3389
    user: str = ""
    domain: str = ""
    password: str = field(default="", repr=False)
    client_name: str = ""
    shell: str = ""
    directory: str = ""
    width: int = 800
    height: int = 600
    depth: int = 16
    screen: Screen | None = None
    is_usb_only: bool = True
    version: int = 5
    experience: int = 0x27
    console: bool = False
    compression: bool = False
    leave_sound: bool = False
    usb: bool = True
    wires: tuple[str, ...] = ("vrdpusb",)
    channels: tuple[str, ...] = ("cliprdr", "rdpsnd", "rdpdr")
    backends: tuple[str, ...] = ("libusb",)
    filters: tuple[Filter, ...] = field(default=())
    excluded: tuple[Filter, ...] = field(default=())
    wants_all: bool = False
    force: bool = False
    security: tuple[str, ...] = ("tls",)
    legacy_tls: bool = False
    ca: Path | str | None = None
    known_servers: Path | str | None = None
    certificate: bytes = b""
    timeout: float = 30.0
    usb_timeout: float = 45.0
    reconnect: bool = False

    def check(self) -> None:
        """See whether a client can do this.

        Raises:
            SettingsError: it cannot; the error names the attribute and the value.
        """
        for name, (low, high) in _RANGES.items():
            number = getattr(self, name)
            if not low <= number <= high:
                raise SettingsError(f"{name} {number} is not from {low} to {high}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                words = ", ".join(map(str, known))
                raise SettingsError(f"{name} {value} is unknown; choose one of {words}")
        if not self.security or not set(self.security) <= set(_SECURITY):
            words = ", ".join(_SECURITY)
            raise SettingsError(
                f"security {self.security!r}: it must be a tuple of some of {words}"
            )
        for name in ("wires", "backends", "channels"):
            if isinstance(getattr(self, name), str):
                raise SettingsError(f"{name} must be a tuple of names, not a text")
        if self.usb and not self.wires:
            raise SettingsError("wires is empty: without one, no device can be offered")
        if len(self.channels) > MAX_CHANNELS or any(
            not (name.isascii() and 1 <= len(name) <= MAX_NAME)
            for name in self.channels
        ):
            raise SettingsError(
                f"channels {self.channels!r}: at most {MAX_CHANNELS} names of 1 to"
                f" {MAX_NAME} ASCII characters"
            )
        for name in ("user", "domain", "password", "client_name", "shell", "directory"):
            if any("\ud800" <= c <= "\udfff" for c in getattr(self, name)):
                raise SettingsError(
                    f"the {name.replace('_', ' ')} is not text in UTF-8"
                )

    @property
    def server(self) -> str:
        """``host:port``, as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
