"""A viewer beside a session: an installed RDP program that shows the guest's screen.

Decided in docs/decisions.md: which programs, and how each is told the password and the
certificate.
"""

import asyncio
import base64
import contextlib
import logging
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rusb.aio.tls import fingerprint
from rusb.errors import CertificateError, ConnectionLost, SettingsError
from rusb.oserrors import reason
from rusb.paths import make_private

from .doorman import LOOPBACK, Doorman
from .session import ClientSession

__all__ = ["PACKAGES", "Viewer", "ViewerProgram", "find_viewer", "has_display", "view"]

log = logging.getLogger(__name__)

PACKAGES = "freerdp3-x11, freerdp2-x11 or rdesktop"
"""Debian's, of which one is enough."""

X11 = ("xfreerdp3", "xfreerdp", "rdesktop")
WAYLAND = ("sdl-freerdp3", "sdl-freerdp", "wlfreerdp3", "wlfreerdp")

BY_USER = 62
"""Exit status of rdesktop when its window was closed."""

MAX_REASON = 12
"""Exit statuses of rdesktop and FreeRDP up to here are the server's reason."""

END_SECONDS = 3.0

MAX_SAID = 2000
"""Characters of what a viewer said that are kept: the last ones say what is wrong."""

Pair = tuple[str, str]
"""An option of rdesktop and its value."""


@dataclass(frozen=True, slots=True)
class ViewerProgram:
    """A program that shows screens.

    Attributes:
        path: of it.
        words: options that the user wants it to have besides.
        is_freerdp: it takes the options of FreeRDP; False: those of rdesktop.
    """

    path: str
    words: tuple[str, ...]
    is_freerdp: bool

    @property
    def name(self) -> str:
        """As the user knows it."""
        return Path(self.path).name


def has_display() -> bool:
    """Is there a screen that a window could be on?"""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def find_viewer(command: str = "") -> ViewerProgram | None:
    """Return the viewer to start.

    Args:
        command: a program, and perhaps options for it; empty: the first that is
            installed, None if none is.

    Raises:
        SettingsError: there is no such program, or it is none that we know how to tell
            a password and a certificate.
    """
    if not command.strip():
        names = X11 if os.environ.get("DISPLAY") else WAYLAND
        found = next(filter(None, map(shutil.which, names)), None)
        return _known(found, ()) if found else None
    try:
        name, *words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"the viewer {command!r}: {error}") from error
    path = shutil.which(name)
    if path is None:
        raise SettingsError(f"there is no program {name!r} to view with; install it")
    return _known(path, tuple(words))


def _known(path: str, words: tuple[str, ...]) -> ViewerProgram:
    name = Path(path).name
    if "freerdp" in name or name.startswith("rdesktop"):
        return ViewerProgram(path, words, is_freerdp="freerdp" in name)
    raise SettingsError(
        f"the viewer {name!r} is neither FreeRDP nor rdesktop: rusb does not know how"
        " to tell it the password and the server's certificate safely. Start it"
        " yourself, beside 'rusb connect'; both count as one client"
    )


class Viewer:
    """A program that was started.

    Attributes:
        program: which one.
    """

    def __init__(
        self,
        program: ViewerProgram,
        process: asyncio.subprocess.Process,
        doorman: Doorman,
    ) -> None:
        self.program = program
        self._process = process
        self._doorman = doorman
        self._said = bytearray()
        self._listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        """Keep the last of what it says."""
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(4096):
            log.debug("%s: %s", self.program.name, data.decode(errors="replace"))
            self._said += data
            del self._said[:-MAX_SAID]

    async def wait_closed(self) -> int:
        """Wait until its window is closed.

        Returns:
            Why the server ended its connection (vrdp-server.md 8.5); 0: the user did.

        Raises:
            ConnectionLost: it could not show the screen, or crashed.
        """
        status = await self._process.wait()
        await asyncio.wait({self._listening}, timeout=1)
        name = self.program.name
        if self._doorman.refusals and status not in (0, BY_USER):
            raise CertificateError(
                f"{name} was kept from a server that does not offer TLS, although it"
                " did a moment before: someone may be between you and the server"
            )
        if status == BY_USER:
            return 0
        if not 0 <= status <= MAX_REASON:
            said = self._said.decode(errors="replace").strip() or "nothing"
            raise ConnectionLost(f"{name} ended with status {status}. It said: {said}")
        return status

    async def end(self) -> None:
        """End it, and what it has started. Idempotent."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._process.wait()
        self._listening.cancel()


@contextlib.asynccontextmanager
async def view(
    session: ClientSession,
    program: ViewerProgram,
    options: Sequence[Pair] = (),
) -> AsyncIterator[Viewer]:
    """Show the screen of a session's server while the ``async with`` block runs.

    Args:
        session: it is connected; the viewer accepts the certificate that it checked.
        program: what shows it.
        options: of rdesktop, about the window.

    Raises:
        SettingsError: the password has a line break, or the program does not start.
        ConnectionLost: the session has no connection.
    """
    config, certificate = session.config, session.certificate
    needs_tls = config.security[0] == "tls"
    if not session.peer or (needs_tls and certificate is None):
        raise ConnectionLost(f"there is no connection to {config.server}")
    password = config.password
    if {"\n", "\r", "\0"} & set(password):
        raise SettingsError("no viewer takes a password with a line break")
    async with contextlib.AsyncExitStack() as stack:
        doorman = await stack.enter_async_context(
            Doorman(session.peer, config.port, needs_tls=needs_tls)
        )
        env = {k: v for k, v in os.environ.items() if k != "RUSB_PASSWORD"}
        make = _freerdp if program.is_freerdp else _rdesktop
        command = make(session, doorman.port, options)
        if not program.is_freerdp:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="rusb-"))
            env["HOME"] = _make_home(Path(home), certificate, env)
        try:
            process = await asyncio.create_subprocess_exec(
                *(program.path, *command, *program.words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise SettingsError(
                f"cannot start {program.path}: {reason(error)}"
            ) from error
        viewer = Viewer(program, process, doorman)
        stack.push_async_callback(viewer.end)
        assert process.stdin is not None
        if password:
            process.stdin.write(password.encode() + b"\n")
        process.stdin.close()  # it has no further question to ask
        yield viewer


def _rdesktop(
    session: ClientSession,
    port: int,
    options: Sequence[Pair],
) -> list[str]:
    """The options of rdesktop, and the server."""
    config = session.config
    words = [part for pair in options for part in pair if part]
    if not any(letter == "-T" for letter, _ in options):
        words += ["-T", f"{config.server} - rusb"]
    if session.user:
        words += ["-u", session.user]
    if config.domain:
        words += ["-d", config.domain]
    if config.password:
        words += ["-p", "-"]
    if config.security[0] == "none" and ("-e", "") not in options:
        words += ["-e"]
    return [*words, f"{LOOPBACK}:{port}"]


def _freerdp(
    session: ClientSession,
    port: int,
    options: Sequence[Pair],
) -> list[str]:
    """The options of FreeRDP 2 and 3, and the server."""
    config, certificate = session.config, session.certificate
    words = [f"/v:{LOOPBACK}:{port}", "/log-level:ERROR"]
    if certificate is not None:
        digest = fingerprint(certificate).partition(":")[2]
        pairs = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
        words += ["/sec:tls", f"/cert:deny,fingerprint:sha256:{pairs}"]
    else:
        words += ["/sec:rdp"]
        if config.security[0] == "none":
            words += ["-encryption"]
    if session.user:
        words += [f"/u:{session.user}"]
    if config.domain:
        words += [f"/d:{config.domain}"]
    if config.password:
        words += ["/from-stdin:force"]
    if not any(letter == "-T" for letter, _ in options):
        words += [f"/t:{config.server} - rusb"]
    for letter, value in options:
        found = _translate(letter, value)
        if found is None:
            log.info("%s has no meaning for FreeRDP", letter)
        else:
            words += found
    return words


_SAME: Mapping[str, str] = {
    "-a": "/bpp:",
    "-T": "/t:",
    "-n": "/client-hostname:",
    "-X": "/parent-window:",
    "-s": "/shell:",
    "-c": "/shell-dir:",
    "-f": "/f",
    "-D": "-decorations",
    "-K": "-grab-keyboard",
    "-m": "-mouse-motion",
    "-0": "/admin",
    "-z": "+compression",
}
"""Words of FreeRDP by rdesktop's letter; what ends in a colon takes the value."""

_BY_ITSELF = frozenset(("-N", "-k", "-e", "-E", "-4", "-5"))
"""What FreeRDP does without a word: it tells of its lights, and sends keys as such; how
it is encrypted is as in the session."""

_NETWORKS = {"m": "modem", "b": "broadband", "l": "lan"}

_SOUND_SYSTEMS = ("alsa", "oss", "pulse")
"""Drivers of sound that both programs have."""


def _translate(letter: str, value: str) -> list[str] | None:
    """Say an option of rdesktop in FreeRDP's words; None: it has none."""
    if letter in _BY_ITSELF:
        return []
    if letter in _SAME:
        word = _SAME[letter]
        return [word + value if word.endswith(":") else word]
    if letter == "-x" and value[:1] in _NETWORKS:
        return [f"/network:{_NETWORKS[value[0]]}"]
    if letter == "-g":
        return _geometry(value)
    if letter == "-r":
        return _redirect(*value.split(":"))
    return None


def _redirect(kind: str, how: str = "", driver: str = "", *_: str) -> list[str] | None:
    """``sound:local:alsa``, ``clipboard:CLIPBOARD``: FreeRDP has one clipboard."""
    if kind == "clipboard":
        return ["-clipboard" if how == "off" else "+clipboard"]
    if kind != "sound":
        return None
    if how in ("off", "remote"):
        return ["/audio-mode:2" if how == "off" else "/audio-mode:1"]
    return [f"/sound:sys:{driver}" if driver in _SOUND_SYSTEMS else "/sound"]


def _geometry(text: str) -> list[str]:
    """``WxH``, a share of the screen, ``workarea``; and where, if that is said."""
    size, *place = text.replace("-", "+").split("+")
    words = ["/workarea"] if size == "workarea" else [f"/size:{size}"]
    if len(place) == 2 and "-" not in text:
        words.append(f"/window-position:{place[0]}x{place[1]}")
    return words


_KEPT = (".rdesktop", ".Xauthority", ".asoundrc", ".config", ".XCompose")
"""What rdesktop and its libraries look for in the home of its user."""


def _make_home(home: Path, certificate: bytes | None, env: Mapping[str, str]) -> str:
    """Make a home for rdesktop, in which it knows one certificate.

    Its file is of the form that GnuTLS documents for ``gnutls_store_pubkey``. What is
    not in there it asks about at its standard input, where nothing is left to read.
    """
    for name in _KEPT:
        place = Path(env.get("HOME", "/")) / name
        if place.exists():
            (home / name).symlink_to(place)
    if certificate is not None:
        known = home / ".local" / "share" / "rdesktop" / "certs" / "known_certs"
        make_private(known.parent)
        key = base64.b64encode(_public_key(certificate)).decode()
        known.write_text(f"|g0|{LOOPBACK}|rdesktop|0|{key}\n")
    return str(home)


def _public_key(certificate: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
