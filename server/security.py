"""What a server has for the security of its connections: certificate, keys, methods."""

import datetime
from collections.abc import Callable
from pathlib import Path

from rusb.aio.stream import TlsUpgrade
from rusb.aio.tls import (
    make_rsa_key,
    make_self_signed,
    read_certificate,
    read_x509_key,
    server_context,
)
from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.paths import state_folder
from rusb.rdp.security import Method
from rusb.rdp.server import ServerSettings
from rusb.rdp.standard import RsaKey

from .config import ServerConfig

__all__ = ["Security", "certificate_files"]

_METHODS = {
    "negotiate": frozenset({Method.TLS, Method.RDP}),
    "rdp": frozenset({Method.RDP}),
    "tls": frozenset({Method.TLS}),
}
"""What ``Security/Method`` allows; unset: TLS."""


def certificate_files(config: ServerConfig) -> tuple[Path, Path, Path | None]:
    """Return certificate, key and authority: the machine's, or our own.

    Raises:
        SettingsError: there are no such files.
    """
    names = ("ServerCertificate", "ServerPrivateKey", "CACertificate")
    display = config.machine.remote_display
    files = [display.property(f"Security/{name}") for name in names]
    certificate, key, ca = (Path(f) if f else None for f in files)
    if certificate is None and key is None:
        folder = Path(config.state or state_folder())
        try:
            certificate, key = make_self_signed(folder)
        except OSError as error:
            raise SettingsError(
                f"TLS: cannot save the server's certificate in {folder}:"
                f" {reason(error)}; name another directory with RUSB_STATE, or set"
                " Security/ServerCertificate"
            ) from error
    if certificate is None or key is None:
        raise SettingsError(
            "Security/ServerCertificate and Security/ServerPrivateKey belong"
            " together; set both, or neither to let rusb make a certificate"
        )
    return certificate, key, ca


class Security:
    """Reads the machine's properties ``Security/…`` and the files that they name.

    Args:
        config: the machine, and where to keep a certificate of our own.
        log: gets what only the log needs.
        warn: gets what should be changed.

    Attributes:
        settings: for the RDP core.
        tls: how to do TLS; None: there is none.
        fingerprint: of the certificate, as a client shows it; empty: there is none.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        log: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._config = config
        self._display = config.machine.remote_display
        self._log, self._warn = log, warn
        self.fingerprint = ""
        self.tls: TlsUpgrade | None = None
        self.settings = ServerSettings()
        self._prepare()

    def renew(self) -> None:
        """Take the certificate as its files are now, for connections from now on."""
        if Method.TLS not in self.settings.methods:
            return
        try:
            self.tls = self._make_tls()
        except SettingsError as error:
            then = "clients get the previous certificate" if self.tls else "no TLS"
            self._warn(f"{error}. Until then, {then}.")
        self.settings.has_certificate = self.tls is not None

    def _prepare(self) -> None:
        """Make ready what ``Security/Method`` allows (vrdp-server.md 2.1).

        Standard security is weak: it is there only where the machine asks for it.
        """
        display = self._display
        text = display.property("Security/Method")
        methods = _METHODS.get(text.lower())
        if methods is None:
            methods = frozenset({Method.TLS})
            if text:
                self._log(f"VRDP: Security/Method {text!r} is unknown; using TLS.")
        settings = self.settings
        settings.methods = methods
        if Method.TLS in methods:
            try:
                self.tls = self._make_tls()
            except SettingsError as error:  # 2.1: the server starts without it
                then = "no client can connect"
                if Method.RDP in methods:
                    then = "all clients get standard RDP security"
                self._warn(f"{error}. Until then, {then}.")
        settings.has_certificate = self.tls is not None
        if Method.RDP in methods:
            settings.key = make_rsa_key()
            settings.x509_key = self._make_x509_key()
            must = display.property("Security/RequireEncryption")
            settings.allow_clear = must != "1"
            self._log(
                f"VRDP: WARNING: Security/Method {text} allows standard RDP security,"
                " which is weak: RC4, and no protection from a man in the middle."
            )

    def _make_x509_key(self) -> RsaKey | None:
        """Obey ``Security/RDPCertificate``: what standard security shows to clients.

        It is ours; the original has X.509 there, too, but cannot switch it on (2.2).
        """
        word = self._display.property("Security/RDPCertificate")
        kind = word.lower() or "proprietary"
        if kind == "x509":
            try:
                certificate, key, _ = certificate_files(self._config)
                return read_x509_key(certificate, key)
            except SettingsError as error:
                self._warn(
                    f"{error}. Until then, clients get a proprietary certificate."
                )
        elif kind != "proprietary":
            self._warn(
                f"Security/RDPCertificate {word!r} is unknown; using proprietary."
            )
        return None

    def _make_tls(self) -> TlsUpgrade:
        certificate, key, ca = certificate_files(self._config)
        context = server_context(certificate, key, ca, legacy=self._config.legacy_tls)
        issuer, (start, end), shown = read_certificate(certificate)
        now = datetime.datetime.now(datetime.UTC)
        if not start <= now <= end:
            when = f"expired on {end:%F}" if end < now else f"is valid from {start:%F}"
            self._warn(
                f"a certificate in {certificate} {when}; clients that check it will"
                " refuse it. Renew it, or set this machine's clock."
            )
        if shown != self.fingerprint:
            self._log(f"VRDP: the certificate is {shown}")
        self.fingerprint = shown
        return TlsUpgrade(context, issuer=issuer, fingerprint=shown)
