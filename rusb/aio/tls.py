"""TLS contexts, self-made certificates and the pins of known servers."""

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rusb.errors import CertificateError, Hint, SettingsError
from rusb.oserrors import reason
from rusb.paths import locked, make_private, state_folder
from rusb.rdp.standard import (
    MAX_CERTIFICATES,
    MAX_CHAIN,
    MAX_MODULUS,
    MIN_MODULUS,
    RsaKey,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = [
    "KnownServers",
    "client_context",
    "fingerprint",
    "make_rsa_key",
    "make_self_signed",
    "read_certificate",
    "read_x509_key",
    "server_context",
]

_KEY_BITS = 2048  # RSA: every RDP client since 2008 takes it
_VALID_DAYS = 3650
_MAX_KNOWN_SIZE = 1 << 20
_MAX_PEM_SIZE = 1 << 20


def fingerprint(certificate: bytes) -> str:
    """Return ``sha256:…`` of a DER certificate."""
    return "sha256:" + hashlib.sha256(certificate).hexdigest()


def _allow_legacy(context: ssl.SSLContext) -> None:
    """Take TLS 1.0 and what goes with it, for clients such as rdesktop-vrdp 1.8."""
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def server_context(
    certificate: Path, key: Path, ca: Path | None, *, legacy: bool = False
) -> ssl.SSLContext:
    """Make the context of a server; TLS 1.2 is the floor, or with *legacy* 1.0.

    Raises:
        SettingsError: a file is missing, unreadable or not the PEM it should be, or
            the key is protected by a passphrase.
    """

    def ask() -> str:  # OpenSSL would ask at the terminal, and the server hang
        raise SettingsError(f"TLS: {_protected(key)}")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key, *([ca] if ca else [])):
        try:
            path.open().close()
        except OSError as error:
            raise SettingsError(
                f"TLS: cannot read {path}: {reason(error)}; check the VRDE properties"
                " Security/ServerCertificate, Security/ServerPrivateKey and"
                " Security/CACertificate"
            ) from error
    if legacy:
        _allow_legacy(context)
    try:
        context.load_cert_chain(certificate, key, ask)
    except OSError as error:
        why = getattr(error, "reason", None) or ""
        raise SettingsError(
            f"TLS: {_unusable(certificate, key, why, error)}"
        ) from error
    if ca is not None:
        _load_authorities(context, ca, "TLS: Security/CACertificate")
    return context


def _protected(key: Path) -> str:
    return (
        f"{key} is protected by a passphrase, which rusb does not ask for; store the"
        f" key without one, in another file: openssl pkey -in {key} -out NEWFILE"
    )


def _foreign(certificate: Path, key: Path) -> str:
    return (
        f"the private key {key} does not belong to the first certificate in"
        f" {certificate}; name the key of that certificate, or, if the file holds a"
        " chain, put the server's own certificate first"
    )


def _unusable(certificate: Path, key: Path, word: str, error: OSError) -> str:
    """Say which of two files is wrong, and what to do; *word* is OpenSSL's."""
    if word in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return _foreign(certificate, key)
    if word == "EE_KEY_TOO_SMALL":
        return (
            f"the key of the certificate {certificate} is too short for this system's"
            " OpenSSL; use one of 2048 bits or more (RSA)"
        )
    for path, kind, line in (
        (certificate, "certificate", b"-----BEGIN CERTIFICATE-----"),
        (key, "private key", b"PRIVATE KEY-----"),
    ):
        with path.open("rb") as file:
            if line not in file.read(_MAX_PEM_SIZE):
                return (
                    f"{path} is not a PEM {kind}: it has no line with"
                    f" {line.decode()}; convert it with openssl, or name another file"
                )
    return (
        f"{certificate} and {key} are not a PEM certificate and its private key:"
        f" {reason(error)}"
    )


def client_context(ca: Path | str | None, *, legacy: bool = False) -> ssl.SSLContext:
    """Make the context of a client; without *ca* the caller checks a pin.

    TLS 1.2 is the floor, or with *legacy* 1.0.

    Raises:
        SettingsError: *ca* cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if legacy:
        _allow_legacy(context)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    _load_authorities(context, ca, "authorities of servers")
    return context


def _load_authorities(context: ssl.SSLContext, path: Path | str, name: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise SettingsError(
            f"{name} {path}: it contains no PEM certificates: {reason(error)}"
        ) from error
    except OSError as error:
        raise SettingsError(f"{name} {path}: {reason(error)}") from error


def make_self_signed(folder: Path) -> tuple[Path, Path]:
    """Return certificate and key in *folder*; made at the first call, then kept.

    The key's file is readable by its owner only.
    """
    certificate, key = folder / "server-cert.pem", folder / "server-key.pem"
    make_private(folder)
    with locked(folder / "server.lock"):
        if not (certificate.exists() and key.exists()):
            certificate_pem, key_pem = _generate(socket.gethostname())
            _write_private(key, key_pem)
            _write_private(certificate, certificate_pem)
    return certificate, key


def read_certificate(
    path: Path,
) -> tuple[str, tuple[datetime.datetime, datetime.datetime], str]:
    """Return who issued a PEM certificate, when it is valid, its fingerprint.

    Those that follow it in the file must be valid, too.

    Raises:
        SettingsError: it is malformed in a way that OpenSSL does not mind.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
        shown = fingerprint(chain[0].public_bytes(Encoding.DER))
        start = max(c.not_valid_before_utc for c in chain)
        end = min(c.not_valid_after_utc for c in chain)
        return chain[0].issuer.rfc4514_string(), (start, end), shown
    except ValueError as error:
        raise SettingsError(f"TLS: the certificate {path}: {error}") from error


def make_rsa_key() -> RsaKey:
    """Make the key of a server for standard RDP security.

    As large as clients take (vrdp-server.md 2.4), and as long as the server runs: one
    of 1024 bits for every connection would be weaker and take longer (2.3).
    """
    numbers = _new_key().private_numbers()
    return RsaKey(numbers.p, numbers.q)


def _new_key() -> "rsa.RSAPrivateKey":
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)


def read_x509_key(certificate: Path, key: Path) -> RsaKey:
    """Read a certificate chain and its key for standard RDP security.

    Args:
        certificate: PEM, the server's own first, as TLS has it. One that stands alone
            is shown twice: rdesktop wants two or more.
        key: PEM of its private key, which must be RSA.

    Raises:
        SettingsError: they cannot be used for that.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    what, path, kind = "standard RDP security", certificate, "certificate"
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
        public = chain[0].public_key()
        path, kind = key, "private key"
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise SettingsError(
            f"{what}: cannot read {path}: {reason(error)}; check the VRDE properties"
            " Security/ServerCertificate and Security/ServerPrivateKey"
        ) from error
    except TypeError as error:
        raise SettingsError(f"{what}: {_protected(key)}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{what}: {path} is not a PEM {kind}; convert it with openssl, or name"
            " another file"
        ) from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise SettingsError(
            f"{what}: {key} is not an RSA key, which Security/RDPCertificate=x509"
            " needs; name one and its certificate, or unset Security/RDPCertificate"
        )
    if private.public_key() != public:
        raise SettingsError(f"{what}: {_foreign(certificate, key)}")
    numbers = private.private_numbers()
    ders = [c.public_bytes(serialization.Encoding.DER) for c in reversed(chain)]
    found = RsaKey(
        numbers.p,
        numbers.q,
        numbers.public_numbers.e,
        chain=tuple(ders if len(ders) > 1 else ders * 2),
    )
    if not MIN_MODULUS <= found.size <= MAX_MODULUS:
        raise SettingsError(
            f"{what}: the key {key} has {private.key_size} bits, and must have"
            f" {MIN_MODULUS * 8} to {MAX_MODULUS * 8}; name another one and its"
            " certificate, or unset Security/RDPCertificate"
        )
    if len(ders) > MAX_CERTIFICATES or len(found.certificate) > MAX_CHAIN:
        raise SettingsError(
            f"{what}: the certificates in {certificate} are too long for clients: at"
            f" most {MAX_CERTIFICATES}, and {MAX_CHAIN >> 10} KiB; leave out those that"
            " clients have, such as the root's"
        )
    return found


def _generate(name: str) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = _new_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    loopback = [ipaddress.ip_address(a) for a in ("127.0.0.1", "::1")]
    names = [x509.DNSName(n) for n in dict.fromkeys((name, "localhost"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([*names, *map(x509.IPAddress, loopback)]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _write_private(path: Path, data: bytes) -> None:
    """Write all or nothing, mode 0600."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class KnownServers:
    """The certificates that servers showed before: trust on first use.

    A text file, one server a line: ``host:port sha256:HEX``. Whatever else people write
    there stays: no server has the name of a comment that begins with ``#``.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path or state_folder() / "known_servers")

    def check(self, server: str, certificate: bytes) -> bool:
        """Compare with the pin of *server*, or pin it.

        Args:
            server: ``host:port``, as the user named it.
            certificate: DER, as the server showed it.

        Returns:
            True if the server was not known before and is from now on.

        Raises:
            CertificateError: the certificate is not the one that was pinned.
            SettingsError: the file cannot be read, or not be written when it must; or
                it is too long.
        """
        shown = fingerprint(certificate)
        try:
            if server in self._read():  # nothing is written, even where it could be
                return self._compare(server, shown)
            make_private(self.path.parent)
            with locked(self.path.with_name(self.path.name + ".lock")):
                before = self._read_whole()
                if server in _pins(before):
                    return self._compare(server, shown)
                if before and not before.endswith(b"\n"):
                    before += b"\n"
                after = before + f"{server} {shown}\n".encode()
                self._check_size(after)
                _write_private(self.path, after)
                return True
        except OSError as error:
            raise SettingsError(
                f"cannot compare the certificate of {server} ({shown}) with the trusted"
                f" ones: {self.path}: {reason(error)}. That file must be writable, and"
                " its disk must have room"
            ).hinting(Hint.OTHER_KNOWN_SERVERS) from error

    def knows(self, server: str) -> bool:
        """Is there a pin for *server*? What cannot be read is taken for one."""
        try:
            return server in self._read()
        except (OSError, SettingsError):
            return True

    def _compare(self, server: str, shown: str) -> bool:
        pinned = self._read().get(server)
        if pinned == shown:
            return False
        raise CertificateError(
            f"the certificate of {server} has changed: it was"
            f" {pinned or 'unreadable'}, now it"
            f" is {shown}. Someone may be between you and the server. If the server's"
            f" owner confirms the new one, remove the line for {server} from"
            f" {self.path} and connect again"
        )

    def _read(self) -> dict[str, str]:
        return _pins(self._read_whole())

    def _read_whole(self) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            data = file.read(_MAX_KNOWN_SIZE + 1)
        self._check_size(data)
        return data

    def _check_size(self, data: bytes) -> None:
        """Refuse what would be cut: a pin that is not read is one that is not kept."""
        if len(data) > _MAX_KNOWN_SIZE:
            raise SettingsError(
                f"{self.path}: the list of trusted certificates may have at most"
                f" {_MAX_KNOWN_SIZE >> 20} MiB; remove the lines of servers that are no"
                " longer used"
            ).hinting(Hint.OTHER_KNOWN_SERVERS)


def _pins(data: bytes) -> dict[str, str]:
    """Return the pins of a list, by server; of a line that was cut, an empty one."""
    lines = (line.split() for line in data.decode("utf-8", "replace").splitlines())
    return {words[0]: words[1] if len(words) > 1 else "" for words in lines if words}
