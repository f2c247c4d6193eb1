"""Client and server agree on TLS, RC4 or nothing, over real sockets."""

import asyncio
import datetime
import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rusb.aio.tls import client_context, make_self_signed, server_context
from rusb.errors import (
    CertificateError,
    ConnectionLost,
    HandshakeError,
    Hint,
    NegotiationError,
)
from rusb.rdp import mcs
from rusb.rdp.standard import Encryption
from rusb.rdp.x224 import ConnectionConfirm, ConnectionRequest
from tests.support.rdp.raw import vector
from tests.support.security import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("method", ["RDP", "Negotiate", "negotiate"])
async def test_rc4_where_the_machine_allows_it(place: Place, method: str) -> None:
    async with place.server(Method=method) as server:
        await place.visit(server, "rdp")
        assert place.security == "RC4, 128 bit"
        log = place.log()
        assert log.count("WARNING: Security/Method") == 1
        assert "Using standard RDP security" in log
        assert "Methods 0x0000000b" in log
        assert "Encryption: RC4, 128 bit" in log


@pytest.mark.parametrize(
    ("strength", "label"),
    [(Encryption.BITS_40, "RC4, 40 bit"), (Encryption.BITS_56, "RC4, 56 bit")],
)
async def test_weaker_rc4_where_the_server_has_no_better(
    place: Place, strength: Encryption, label: str
) -> None:
    async with place.server(Method="RDP") as server:
        server._security.settings.encryption = (strength,)
        await place.visit(server, "rdp")
    assert place.security == label
    assert f"VRDP: Encryption: {label}" in place.log()


async def test_rc4_nowhere_else(place: Place) -> None:
    async with place.server() as server:
        with pytest.raises(NegotiationError, match="insists on TLS"):
            await place.visit(server, "rdp")
        assert "refused a client that wants standard RDP security" in place.log()
        assert "WARNING" not in place.log()
        await place.visit(server, "tls")
        assert place.security == "TLS 1.3"


async def test_less_than_tls_only_if_the_user_allows_it(place: Place) -> None:
    async with place.server(Method="RDP") as server:
        with pytest.raises(NegotiationError, match="Security/Method"):
            await place.visit(server, "tls")
        await place.visit(server, "tls", "rdp")
    assert any("Trying standard RDP security, which is weak" in s for s in place.said)


async def test_nothing_at_all_only_if_both_allow_it(place: Place) -> None:
    async with place.server(Method="RDP") as server:
        await place.visit(server, "none")
        assert place.security == "no encryption"
        assert "Methods 0x00000000" in place.log()
    async with place.server(Method="RDP", RequireEncryption="1") as server:
        with pytest.raises(ConnectionLost):
            await place.visit(server, "none")
        assert "refused a client that does not want encryption" in place.log()


async def test_a_method_that_nobody_knows_means_tls(place: Place) -> None:
    async with place.server(Method="Rot13") as server:
        await place.visit(server, "tls")
        assert "Security/Method 'Rot13' is unknown; using TLS." in place.log()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
async def test_tls_1_0_only_where_it_is_allowed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old_client(ca: Path | None, *, legacy: bool) -> ssl.SSLContext:
        context = client_context(ca, legacy=True)
        context.maximum_version = ssl.TLSVersion.TLSv1
        return context

    monkeypatch.setattr("rusb.client.dial.client_context", old_client)
    async with place.server() as server:
        with pytest.raises((NegotiationError, ConnectionLost)):
            await place.visit(server, "tls")
    old = place.server()
    old.config.legacy_tls = True
    async with old as server:
        await place.visit(server, "tls")
        assert place.security == "TLS 1.0"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
async def test_a_server_that_knows_only_tls_1_0(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old_server(*files: Path | None, legacy: bool) -> ssl.SSLContext:
        certificate, key, ca = files
        assert certificate is not None
        assert key is not None
        context = server_context(certificate, key, ca, legacy=True)
        context.maximum_version = ssl.TLSVersion.TLSv1
        return context

    monkeypatch.setattr("rusb.server.security.server_context", old_server)
    async with place.server() as server:
        with pytest.raises((NegotiationError, ConnectionLost)):
            await place.visit(server, "tls")
        await place.visit(server, "tls", legacy_tls=True)
        assert place.security == "TLS 1.0"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
def test_tls_1_2_is_the_floor_whatever_the_machine_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lax(protocol: int) -> ssl.SSLContext:
        """As Pythons are whose distribution leaves the choice to OpenSSL."""
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1
        return context

    certificate, key = make_self_signed(tmp_path)
    names = {**vars(ssl), "SSLContext": lax}
    monkeypatch.setattr("rusb.aio.tls.ssl", SimpleNamespace(**names))
    contexts = [client_context(None), client_context(certificate)]
    contexts.append(server_context(certificate, key, None))
    floors = {context.minimum_version for context in contexts}
    assert floors == {ssl.TLSVersion.TLSv1_2}
    assert client_context(None, legacy=True).minimum_version == ssl.TLSVersion.TLSv1


FIRST, AGAIN = (
    vector("x224", "rdesktop-cr-v5", "bytes").replace(b"\1\0\x08\0\1", wish)
    for wish in (b"\1\0\x08\0\1", b"\1\0\x08\0\0")
)


async def rdesktop(port: int) -> str:
    """rdesktop-vrdp 1.8.4 as far as the answer to its first blocks (1.4, 8.4)."""
    context = client_context(None, legacy=True)
    context.maximum_version = ssl.TLSVersion.TLSv1
    for request in (FIRST, AGAIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            confirm = await reader.readexactly(19)
            if confirm[11] == 3:
                return f"failure {confirm[15]}"
            name = "gcc-request-r-usb-standard"
            if confirm[15] == 1:
                await writer.start_tls(context)
                name = "gcc-request-tls"
            blocks = vector("client_rdesktop_vrdp", name, "user_data")
            writer.write(mcs.serialize_connect_initial(blocks))
            response = await reader.readexactly(300 if confirm[15] == 0 else 90)
            assert b"McDn" in response
            return "TLS" if confirm[15] == 1 else "RC4"
        except (ssl.SSLError, ConnectionError):
            assert request == FIRST
        finally:
            writer.close()
    raise AssertionError("it came twice in vain")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
@pytest.mark.parametrize(
    ("method", "is_legacy", "outcome"),
    [
        ("TLS", True, "TLS"),
        ("Negotiate", True, "TLS"),
        ("Negotiate", False, "RC4"),
        ("TLS", False, "failure 1"),
        ("RDP", False, "failure 2"),
    ],
)
async def test_rdesktop_vrdp_knows_only_tls_1_0(
    place: Place, method: str, outcome: str, *, is_legacy: bool
) -> None:
    """2.5: after a handshake that fails it asks for standard security."""
    server = place.server(Method=method)
    server.config.legacy_tls = is_legacy
    async with asyncio.timeout(30), server:
        assert await rdesktop(server.port) == outcome
        assert await rdesktop(server.port) == outcome
    told = "\n".join(place.at_terminal)
    for said in (place.log(), told):
        is_advised = "like rdesktop-vrdp 1.8" in said
        assert is_advised is (outcome == "failure 1")
        for advice in ("Security/Method=Negotiate", "--legacy-tls", "SECLEVEL=0"):
            assert advice in said or not is_advised
    if outcome == "failure 1":
        assert "UNSUPPORTED_PROTOCOL" in told
        assert "to serve clients without TLS, with RC4" in told
    if (method, is_legacy) == ("Negotiate", False):
        assert "may connect again without TLS, which this machine allows" in place.log()


@pytest.mark.parametrize(
    ("wish", "method", "answer", "advice"),
    [
        (3, "TLS", 1, "it insists on that: rusb does not support network level"),
        (
            2,
            "TLS",
            None,
            "(NLA) only: tls required; rusb does not support network level",
        ),
        (2, "RDP", None, "(NLA) only: tls not allowed; rusb does not support network"),
        (1, "TLS", 1, "it may not trust the server's certificate"),
    ],
)
async def test_a_client_that_insists_on_nla_is_told_from_one_without_trust(
    place: Place, wish: int, method: str, answer: int | None, advice: str
) -> None:
    """It hangs up as soon as TLS is chosen: `xfreerdp /sec:nla` does."""
    async with asyncio.timeout(30), place.server(Method=method) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(ConnectionRequest(protocols=wish).serialize())
        confirm = ConnectionConfirm.parse((await reader.readexactly(19))[4:])
        assert confirm.selected == answer
        if answer is None:
            assert confirm.failure == (2 if method == "RDP" else 1)
        writer.close()
        await place.has_told.wait()
    (line,) = [s for s in place.log().splitlines() if "VRDP: client 1: " in s]
    assert advice in line
    assert ("trust" in line) is (wish == 1)
    assert advice in place.at_terminal[0]


async def test_t45_no_cipher_in_common(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends of TLS 1.2, one with a kind of cipher that the other's key cannot serve."""

    def only_ecdsa(ca: Path | None, *, legacy: bool) -> ssl.SSLContext:
        context = client_context(ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        return context

    monkeypatch.setattr("rusb.client.dial.client_context", only_ecdsa)
    async with asyncio.timeout(30), place.server() as server:
        with pytest.raises(HandshakeError, match="TLS handshake failed|hung up"):
            await place.visit(server, "tls")
        await place.has_told.wait()
    assert "no cipher or signature algorithm in common" in place.log()


async def test_t45_a_certificate_that_changed_while_the_client_was_away(
    place: Place,
) -> None:
    async with place.server() as server:
        await place.visit(server, "tls")
        port = server.port
    pinned = (place.folder / "known").read_text()
    for path in place.folder.glob("*.pem"):
        path.unlink()  # the server makes another one
    again = place.server()
    again.config.ports = [port]
    async with again as server:
        with pytest.raises(CertificateError, match="has changed"):
            await place.visit(server, "tls")
        assert not place.guest.devices
    assert (place.folder / "known").read_text() == pinned


async def test_an_authority_instead_of_a_pin(place: Place) -> None:
    certificate, _ = make_self_signed(place.folder)
    (place.folder / "known").write_text("")
    (place.folder / "other").mkdir()
    other, _ = make_self_signed(place.folder / "other")
    async with place.server() as server:
        await place.visit(server, "tls", ca=certificate)
        await place.visit(server, "tls", ca=certificate, host="localhost")
        with pytest.raises(CertificateError, match="not trusted") as e:
            await place.visit(server, "tls", ca=other)
        assert e.value.hint is Hint.OTHER_AUTHORITY
    elsewhere = place.server()
    elsewhere.config.address = host = "127.0.0.2"  # which is not in the certificate
    async with elsewhere as server:
        with pytest.raises(CertificateError, match="IP address mismatch") as e:
            await place.visit(server, "tls", ca=certificate, host=host)
        assert e.value.hint is None
    assert (place.folder / "known").read_text() == ""


async def test_an_expired_certificate_is_said_at_the_start(place: Place) -> None:
    certificate, key = make_self_signed(place.folder)
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    old = (
        x509.CertificateBuilder()
        .add_extension(names.value, critical=False)
        .subject_name(found.subject)
        .issuer_name(found.subject)
        .public_key(found.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2024, 1, 1))
        .not_valid_after(datetime.datetime(2025, 1, 1))
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(old.public_bytes(serialization.Encoding.PEM))
    files = {"ServerCertificate": str(certificate), "ServerPrivateKey": str(key)}
    async with place.server(**files) as server:
        with pytest.raises(CertificateError, match="not trusted: certificate has exp"):
            await place.visit(server, "tls", ca=certificate)
        assert f"a certificate in {certificate} expired on 2025-01-01" in place.log()
