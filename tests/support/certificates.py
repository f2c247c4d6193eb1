"""Certificates that somebody else signed."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A key, its certificate, and what it signs."""

    def __init__(
        self,
        name: str,
        signer: "Authority | None" = None,
        *,
        until: datetime.datetime = NOW + DAY,
    ) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = signer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 2 * DAY)
            .not_valid_after(until)
        )
        here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = [x509.DNSName("localhost"), here]
        is_authority = name != "localhost"
        constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
        self.certificate = (
            builder.add_extension(constraints, critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(signer.key, hashes.SHA256())
        )

    def write(self, folder: Path, password: bytes = b"") -> tuple[Path, Path]:
        """Write certificate and key as PEM files."""
        encryption: serialization.KeySerializationEncryption
        encryption = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password)
        stem = self.name.rfc4514_string().partition("=")[2]
        certificate, key = folder / f"{stem}.pem", folder / f"{stem}-key.pem"
        pem = serialization.Encoding.PEM
        certificate.write_bytes(self.certificate.public_bytes(pem))
        form = serialization.PrivateFormat.PKCS8
        key.write_bytes(self.key.private_bytes(pem, form, encryption))
        return certificate, key
