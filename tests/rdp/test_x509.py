"""X.509 certificates in standard RDP security (2.2; MS-RDPELE 2.2.1.4.2)."""

import datetime
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rusb.errors import ParseError, RemoteProtocolError
from rusb.rdp import events as rdp
from rusb.rdp import mcs
from rusb.rdp.gcc import ServerBlocks
from rusb.rdp.notices import X509Chosen
from rusb.rdp.standard import RsaKey, parse_certificate
from tests.support.rdp.joined import Joined
from tests.support.rdp.standard import KEY, Peer, encrypted, secured

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def self_signed(key: rsa.RSAPrivateKey, name: str = "server") -> bytes:
    return issued(key, name, key, name)


def issued(key: Key, subject: str, by: Key, issuer: str) -> bytes:
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in (subject, issuer)
    ]
    now = datetime.datetime(2026, 1, 1)
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(by, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def test_an_x509_chain_is_as_good() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    der = self_signed(key)
    chain = struct.pack("<III", 0x80000002, 1, len(der)) + der + bytes(16)
    numbers = key.public_key().public_numbers()
    assert parse_certificate(chain) == (numbers.n, numbers.e)
    exchange, _ = Peer().answer(secured(certificate=chain))
    assert struct.unpack_from("<I", exchange, 19) == (128 + 8,)


def x509_key(bits: int) -> RsaKey:
    """A key with a certificate that an authority has signed."""
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=bits)]
    keys.append(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    numbers = keys[0].private_numbers()
    root = self_signed(keys[1], "authority")
    leaf = issued(keys[0], "server", keys[1], "authority")
    return RsaKey(numbers.p, numbers.q, chain=(root, leaf))


@pytest.mark.parametrize("bits", [1024, 2048])
def test_a_session_with_an_x509_chain_of_two(bits: int) -> None:
    """The layout of MS-RDPELE 2.2.1.4.2; RDP 4 gets the proprietary one (2.2)."""
    client, server = encrypted()
    server.x509_key = x509_key(bits)
    joined = Joined(client, server).run()
    assert joined.of_client(rdp.Activated)
    assert X509Chosen() in joined.server_events
    blocks = ServerBlocks.parse(response(joined))
    root, leaf = server.x509_key.chain
    chain = struct.pack("<III", 2, 2, len(root)) + root
    chain += struct.pack("<I", len(leaf)) + leaf + bytes(16)
    assert blocks.security[:8] == struct.pack("<II", 32, len(chain))
    assert blocks.security[40:] == chain
    assert parse_certificate(chain) == (server.x509_key.modulus, 65537)


def test_an_rdp4_client_gets_the_proprietary_certificate_all_the_same() -> None:
    client, server = encrypted(version=4)
    server.x509_key = x509_key(1024)
    joined = Joined(client, server).run()
    assert joined.of_client(rdp.Activated)
    assert KEY.certificate in response(joined)


def response(joined: Joined) -> bytes:
    """The user data of the server's Connect-Response."""
    (found,) = (p for p in joined.sent_by_server if b"McDn" in p)
    return mcs.parse_connect_response(found[7:])


def x509_of_version(version: int) -> bytes:
    """A chain of one certificate whose version no X.509 has."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    der = self_signed(key).replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1" + bytes([version]))
    return struct.pack("<III", 2, 1, len(der)) + der


def test_t05_a_certificate_of_a_version_that_no_x509_has() -> None:
    with pytest.raises(RemoteProtocolError):
        Peer().answer(secured(certificate=x509_of_version(7)))


def test_a_certificate_of_another_kind_of_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = issued(key, "server", key, "server")
    chain = struct.pack("<III", 2, 1, len(der)) + der
    with pytest.raises(ParseError, match="has no RSA key"):
        parse_certificate(chain)
