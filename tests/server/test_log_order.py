"""Whole connections in VBox.log, line by line (vrdp-server.md 7.2 to 7.4)."""

import re
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from tests.support.logon import Place

START = [r"VRDP: TCP server listening on port \d+ \(IPv[46]\)\."]

OPENED = [r"VRDP: New connection:?", r"VRDP: Connection opened \(IPv[46]\): 1"]

NEGOTIATING = ["VRDP: .*negotiating RDP security.*"]

TLS = [
    "VRDP: Client requested enhanced RDP security",
    "VRDP: Using enhanced RDP security",
    r"VRDP: TLSv1\.[23]\b.*\[CN=.+\].*",
]
RC4 = [
    "VRDP: Client requested standard RDP security",
    "VRDP: Using standard RDP security",
]

CHANNELS = [
    r"VRDP: Channel: \[cliprdr\] \[1004\]\. Accepted\.",
    r"VRDP: Channel: \[rdpsnd\] \[1005\]\. Accepted\.",
    r"VRDP: Channel: \[vrdpusb\] \[1006\]\. Accepted\.",
    r"VRDP: Channel: \[rusbext\] \[1007\]\. Accepted\.",
    r"VRDP: Channel: \[rdpdr\] \[1008\]\. Not supported\.",
]

LOGON = [
    "VRDP: Client type: MSFT",
    "VRDP: Client screen: 800x600, 16 bit",
    r"VRDP: Logon: \S+ \((127\.0\.0\.1|::1)\) build 2600\."
    r" User: \[vera\] Domain: \[WORK\] Screen: 0",
    r"VRDP: Client 1 connects from \[(?:127\.0\.0\.1|::1)\] \(it claims \[.+\]\)\.",
    r"AUTH: User: \[vera\]\. Domain: \[WORK\]\. Authentication type: \[External\]",
    r"AUTH: Library: \[VBoxAuthSimple\]\.",
]

GRANTED = ["AUTH: external authentication: granted", r"AUTH: Access granted\."]
DENIED = ["AUTH: external authentication: denied", r"AUTH: Access denied\."]

USB = [
    r"Remote USB: Received negotiate response\. Flags 0x[0-9A-F]{2}\.",
    r"VRDP: remote USB protocol version 3\.",
    r"Remote USB: \+\+\+\+ Vendor 1209\. Product 0004\. Name = \[Loopback\]\.",
    "Remote USB: 1209:0004 .*: admitted by .*",
    r"VUSB: Attached '.*' to .* \(HighSpeed\)",
]

CLOSED = ["VRDP: Connection closed: 1"]

GONE = [
    r"Remote USB: ---- Vendor 1209\. Product 0004\. Name = \[Loopback\]\.",
    "VUSB: Detached '.*'",
    "Remote USB: 1209:0004 .* was detached: the client's connection ended",
]

END = [r"VRDP: TCP server closed\."]

ALLOWED = "VRDP: WARNING: Security/Method Negotiate allows .*"
"""At the start, where it is so."""

EXTRA = "VRDP: Encryption: .*|Remote USB: .* its isochronous endpoints .*"
"""Beside the original's lines, in any place."""


def check(log: str, *parts: list[str]) -> None:
    """Compare what follows the log's header, without its times."""
    lines = [line.partition(" ")[2] for line in log.splitlines()]
    (start,) = (n for n, line in enumerate(lines) if re.fullmatch(START[0], line))
    found = [s for s in lines[start:] if not re.fullmatch(EXTRA, s)]
    wanted = [pattern for part in (START, OPENED, *parts, END) for pattern in part]
    for line, pattern in zip(found, wanted, strict=False):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r} in\n{log}"
    assert len(found) == len(wanted), log


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_session_with_tls(place: Place) -> None:
    place.host = "::1"
    properties = {"Client/DisableAudio": "1"}
    async with place.serve(properties=properties):
        async with place.visit(domain="WORK"):
            await place.guest.wait_for(1)
        await place.wait_log("VUSB: Detached")
    enhanced = ["VRDP: .*enhanced RDP security.*"]
    switches = ["VRDP: feature: Client/DisableAudio"]
    methods = ["VRDP: Methods 0x[0-9a-f]{8}"]
    before = [*enhanced, *TLS, *methods, *CHANNELS, *LOGON]
    check(place.log(), before, GRANTED, switches, USB, CLOSED, GONE)
    assert "Connection opened (IPv6): 1" in place.log()
    assert "listening on port" in place.log()


async def test_a_session_with_rc4(place: Place) -> None:
    async with place.serve(properties={"Security/Method": "Negotiate"}) as server:
        config = ClientConfig(
            "127.0.0.1",
            server.port,
            user="vera",
            domain="WORK",
            password="secret",
            security=("rdp",),
        )
        backend = EmulatedBackend(devices=[Loopback()])
        async with connect(config, backends=[backend]) as client:
            await place.guest.wait_for(1)
            (session,) = server._sessions
            session.disconnect(1)
            await client.wait_closed()
        await place.wait_log("VUSB: Detached")
    methods = ["VRDP: Methods 0x0000000b"]
    logoff = [r"VRDP: Logoff: \S+ \(127\.0\.0\.1\) build 2600\. Reason 0x0001\."]
    before = [*NEGOTIATING, *RC4, *methods, *CHANNELS, *LOGON]
    check(place.log(), before, GRANTED, USB, logoff, CLOSED, GONE)
    assert re.search(ALLOWED, place.log())
    assert "Connection opened (IPv4): 1" in place.log()


async def test_a_refused_logon(place: Place) -> None:
    async with place.serve(properties={"Security/Method": "TLS"}):
        await place.is_refused(password="wrong", domain="WORK")
        await place.wait_log("Connection closed")
    enhanced = ["VRDP: .*enhanced RDP security.*"]
    methods = ["VRDP: Methods 0x[0-9a-f]{8}"]
    check(place.log(), [*enhanced, *TLS, *methods, *CHANNELS, *LOGON], DENIED, CLOSED)


async def test_a_client_that_wants_what_is_not_allowed(place: Place) -> None:
    async with place.serve(properties={"Security/Method": "RDP"}):
        with pytest.raises(Exception, match="failure 2"):
            async with place.visit():
                pass
        await place.wait_log("Connection closed")
    wish = ["VRDP: .*standard RDP security.*", TLS[0]]
    refused = ["VRDP: client 1: refused a client that wants enhanced RDP security: .*"]
    check(place.log(), wish, refused, CLOSED)
