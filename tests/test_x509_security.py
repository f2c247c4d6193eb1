"""``Security/RDPCertificate``: X.509 in standard RDP security, over real sockets."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rusb.aio.tls import make_self_signed, read_x509_key
from rusb.errors import SettingsError
from tests.support.security import Place

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PEM = serialization.Encoding.PEM


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def rsa_key(bits: int = 1024) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def signed(key: Key, subject: str, by: Key, issuer: str) -> x509.Certificate:
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in (subject, issuer)
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2026, 1, 1))
        .not_valid_after(datetime.datetime(2036, 1, 1))
        .sign(by, hashes.SHA256())
    )


def write(
    folder: Path, key: Key, *chain: x509.Certificate, password: bytes = b""
) -> tuple[Path, Path]:
    """Write a chain, or a certificate that the key signed itself, and the key."""
    chain = chain or (signed(key, "server", key, "server"),)
    (folder / "chain.pem").write_bytes(b"".join(c.public_bytes(PEM) for c in chain))
    encryption: serialization.KeySerializationEncryption
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, form, encryption))
    return folder / "chain.pem", folder / "key.pem"


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_the_root_comes_first(tmp_path: Path) -> None:
    authority, key = rsa_key(), rsa_key()
    root = signed(authority, "root", authority, "root")
    leaf = signed(key, "server", authority, "root")
    found = read_x509_key(*write(tmp_path, key, leaf, root))
    assert found.chain == (der(root), der(leaf))
    assert found.modulus == key.private_numbers().public_numbers.n


def test_a_certificate_that_stands_alone_is_shown_twice(tmp_path: Path) -> None:
    found = read_x509_key(*make_self_signed(tmp_path))
    assert len(found.chain) == 2
    assert found.chain[0] == found.chain[1]
    assert found.size == 256


def unusable(folder: Path, how: str) -> tuple[Path, Path]:
    key = rsa_key()
    files = write(folder, key)
    match how:
        case "elliptic":
            return write(folder, ec.generate_private_key(ec.SECP256R1()))
        case "large":
            return write(folder, rsa_key(3072))
        case "protected":
            return write(folder, key, password=b"secret")
        case "other":
            return write(folder, key, signed(rsa_key(), "server", key, "server"))
        case "long":
            leaf = signed(key, "server", key, "server")
            return write(folder, key, *[leaf] * 17)
        case "missing":
            files[0].unlink()
        case "junk":
            files[1].write_text("junk")
    return files


HOWS = {  # what happened to which file, and what to do
    "elliptic": r"key\.pem is not an RSA key.*; name one and its certificate",
    "large": r"key\.pem has 3072 bits, and must have 512 to 2048; name another one",
    "protected": r"key\.pem is protected by a passphrase.*: openssl pkey -in",
    "other": r"key\.pem does not belong to the first certificate in .*chain\.pem; name",
    "long": r"certificates in .*chain\.pem are too long.* 12 KiB; leave out those that",
    "missing": r"cannot read .*chain\.pem: No such file or directory; check the VRDE",
    "junk": r"key\.pem is not a PEM private key; convert it with openssl, or name",
}


@pytest.mark.parametrize("how", HOWS)
def test_what_cannot_be_used(how: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=HOWS[how]):
        read_x509_key(*unusable(tmp_path, how))


@pytest.mark.parametrize("word", ["x509", "X509"])
@pytest.mark.parametrize("method", ["RDP", "Negotiate"])
async def test_a_client_and_a_certificate(place: Place, method: str, word: str) -> None:
    async with place.server(Method=method, RDPCertificate=word) as server:
        await place.visit(server, "rdp")
    assert place.security == "RC4, 128 bit"
    assert "VRDP: Certificate: X.509" in place.log()


@pytest.mark.parametrize("word", ["", "proprietary"])
async def test_proprietary_if_not_asked_for_another(place: Place, word: str) -> None:
    async with place.server(Method="RDP", RDPCertificate=word) as server:
        await place.visit(server, "rdp")
    assert "Certificate" not in place.log()
    assert place.log().count("WARNING") == 1  # that RC4 is weak


@pytest.mark.parametrize("how", ["elliptic", "missing"])
async def test_without_a_usable_one_it_is_proprietary(place: Place, how: str) -> None:
    files = map(str, unusable(place.folder, how))
    names = dict(zip(("ServerCertificate", "ServerPrivateKey"), files, strict=True))
    async with place.server(Method="RDP", RDPCertificate="x509", **names) as server:
        await place.visit(server, "rdp")
    assert "Certificate: X.509" not in place.log()
    assert "Until then, clients get a proprietary certificate." in place.log()


async def test_a_kind_that_nobody_knows(place: Place) -> None:
    async with place.server(Method="RDP", RDPCertificate="pgp") as server:
        await place.visit(server, "rdp")
    assert "Security/RDPCertificate 'pgp' is unknown; using proprietary." in place.log()
