"""Certificates that cannot be used, and those that somebody else signed."""

import re
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import CertificateError, NegotiationError
from rusb.server.quotas import Terminal
from rusb.server.server import Server
from tests.support.certificates import DAY, NOW, Authority
from tests.support.security import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def unusable(folder: Path, how: str) -> dict[str, str]:
    """Return properties that name files with which TLS cannot be done."""
    certificate, key = Authority("localhost").write(folder)
    found = {"ServerCertificate": str(certificate), "ServerPrivateKey": str(key)}
    match how:
        case "missing":
            found["ServerCertificate"] = str(folder / "nowhere.pem")
        case "no PEM":
            certificate.write_text("junk")
        case "no key":
            found["ServerPrivateKey"] = str(certificate)
        case "a directory":
            found["ServerCertificate"] = str(folder)
        case "protected":
            Authority("localhost").write(folder, b"secret")
        case "another's":
            found["ServerPrivateKey"] = str(Authority("other").write(folder)[1])
        case "alone":
            del found["ServerPrivateKey"]
        case "authority":
            found["CACertificate"] = str(folder / "junk.pem")
            (folder / "junk.pem").write_text("junk")
    return found


HOWS = {
    "missing": r"cannot read .*nowhere\.pem: No such file",
    "no PEM": r"localhost\.pem is not a PEM certificate: it has no line",
    "no key": r"localhost\.pem is not a PEM private key: it has no line",
    "a directory": "cannot read .*: Is a directory",
    # with -in and -out alike, OpenSSL empties the only copy of the key
    "protected": r"localhost-key\.pem is protected .* -out NEWFILE",
    "another's": r"key .*other-key\.pem does not belong to .* in .*localhost\.pem",
    "alone": "belong together",
    "authority": r"CACertificate .*junk\.pem: it contains no PEM",
}


def server(place: Place, how: str, warned: list[str], **properties: str) -> Server:
    found = place.server(**unusable(place.folder, how), **properties)
    found._host.terminal = Terminal(warned.append, found.log.now)
    return found


@pytest.mark.parametrize("how", HOWS)
async def test_without_a_usable_certificate_tls_is_failure_3(
    place: Place, how: str
) -> None:
    """vrdp-server.md 2.1: it does not prevent the server from starting."""
    warned: list[str] = []
    async with server(place, how, warned, Method="TLS") as running:
        with pytest.raises(NegotiationError, match=r"no certificate .*failure 3"):
            await place.visit(running, "tls")
        with pytest.raises(NegotiationError, match="failure 1"):
            await place.visit(running, "rdp")
    (warning,) = (s for s in place.log().splitlines() if "WARNING" in s)
    assert warning.partition(" VRDP: ")[2] == warned[0]
    assert re.search(HOWS[how] + ".*no client can connect", warning)


async def test_without_one_negotiate_means_standard_security(place: Place) -> None:
    """B.1: clients differ in whether they ask again after a refusal."""
    warned: list[str] = []
    async with server(place, "missing", warned, Method="Negotiate") as running:
        await place.visit(running, "rdp")
        with pytest.raises(NegotiationError, match="does not offer TLS"):
            await place.visit(running, "tls")
        await place.visit(running, "tls", "rdp")
        assert place.log().count("Client requested enhanced RDP security") == 2
        assert "all clients get standard RDP security" in place.log()
    assert "nowhere.pem" in warned[0]


async def test_standard_security_needs_none(place: Place) -> None:
    warned: list[str] = []
    async with server(place, "missing", warned, Method="RDP") as running:
        await place.visit(running, "rdp")
    assert not any("WARNING" in line for line in warned)
    assert "nowhere.pem" not in place.log()


async def test_a_certificate_that_cannot_be_kept(place: Place) -> None:
    (place.folder / "file").touch()
    found = place.server()
    found.config.state = place.folder / "file" / "state"
    async with found as running:
        with pytest.raises(NegotiationError, match="failure 3"):
            await place.visit(running, "tls")
    assert (
        f"cannot save the server's certificate in {found.config.state}" in place.log()
    )


async def test_the_authorities_between_go_to_the_client(place: Place) -> None:
    """The client knows the root alone; CACertificate has what is between."""
    root = Authority("root")
    middle = Authority("middle", root)
    certificate, key = Authority("localhost", middle).write(place.folder)
    names = {"ServerCertificate": str(certificate), "ServerPrivateKey": str(key)}
    between = str(middle.write(place.folder)[0])
    for properties, is_trusted in ((names, False), ({"CACertificate": between}, True)):
        async with place.server(**names | properties) as running:
            config = ClientConfig(
                "localhost", running.port, ca=root.write(place.folder)[0]
            )
            backend = EmulatedBackend(devices=[Loopback()])
            if is_trusted:
                async with connect(config, backends=[backend]):
                    await place.guest.wait_for(1)
                continue
            with pytest.raises(CertificateError, match="not trusted"):
                async with connect(config, backends=[backend]):
                    pass


@pytest.mark.parametrize(("days", "said"), [(-3, "expired on"), (9, "is valid from")])
async def test_each_certificate_of_a_chain_has_dates(
    place: Place, days: int, said: str
) -> None:
    root = Authority("root", until=NOW + 30 * DAY)
    middle = Authority("middle", root, until=NOW + days * DAY)
    certificate, key = Authority("localhost", middle).write(place.folder)
    with certificate.open("ab") as file:
        file.write(middle.write(place.folder)[0].read_bytes())
    names = {"ServerCertificate": str(certificate), "ServerPrivateKey": str(key)}
    async with place.server(**names) as server:
        assert f"a certificate in {certificate} {said}" in place.log()
        with pytest.raises(CertificateError, match=r"; it has to be renewed") as e:
            await place.visit(server, "tls", ca=root.write(place.folder)[0])
        assert e.value.hint is None
