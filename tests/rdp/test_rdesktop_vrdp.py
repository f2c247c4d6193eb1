"""rdesktop-vrdp 1.8.4 as it connects, and connects again (1.4, 2.5, 8.4, 8.6)."""

import struct

import pytest

from rusb.errors import NegotiationError
from rusb.rdp import events as rdp
from rusb.rdp import share
from rusb.rdp.capabilities import client_sets
from rusb.rdp.security import Method, SecurityFlag, StandardSecurity
from rusb.rdp.server import ServerSettings
from rusb.rdp.share import DataType
from rusb.rdp.standard import derive_keys
from tests.support.rdp.raw import RawClient, group, in_clear, vector
from tests.support.rdp.standard import KEY

TLS, RDP = frozenset({Method.TLS}), frozenset({Method.RDP})
BOTH = TLS | RDP

FIRST = vector("x224", "rdesktop-cr-v5", "bytes")  # asks for TLS
PLAIN = vector("x224", "rdesktop-cr-v4", "bytes")  # again after codes 2 and 3
ZERO = FIRST.replace(b"\1\0\x08\0\1", b"\1\0\x08\0\0")  # again after TLS failed
SELECTED = vector("x224", "vrdp-cc-selected-rdp", "bytes")
CONFIRM = vector("x224", "vrdp-cc-no-neg", "bytes")
CODES = {
    1: vector("x224", "vrdp-cc-failure-ssl-required", "bytes"),
    2: vector("x224", "vrdp-cc-failure-ssl-not-allowed", "bytes"),
    3: vector("x224", "vrdp-cc-failure-ssl-cert-not-on-server", "bytes"),
}


class Rdesktop(RawClient):
    """Standard security with RC4 once the keys are there."""

    def __init__(self, methods: frozenset[Method], *, has_certificate: bool = True):
        super().__init__(
            ServerSettings(methods, has_certificate=has_certificate, key=KEY)
        )
        self.security: StandardSecurity | None = None

    def io(self, payload: bytes) -> bytes:
        if self.security is not None:
            payload = self.security.wrap(0, payload)
        return super().io(payload)

    def log_on(self, info: bytes | None = None) -> bytes:
        assert info is not None
        if self.security is None:
            return super().log_on(info)
        sealed = self.security.wrap(SecurityFlag.INFO, info)
        return self.feed(super().io(sealed))

    def refused(self, request: bytes) -> bytes:
        """What the server says to a request that it refuses."""
        with pytest.raises(NegotiationError):
            self.negotiate(request)
        return b"".join(self.server.data_to_send())

    def go_on(
        self,
        blocks: str = "gcc-request-r-usb-standard",
        info: bytes = b"",
        *,
        is_clear: bool = False,
    ) -> "Rdesktop":
        """Send what follows the connection confirm, as far as Confirm Active."""
        user_data = vector("client_rdesktop_vrdp", blocks, "user_data")
        response = self.connect(in_clear(user_data) if is_clear else user_data)
        self.join(range(1002, 1009))
        if b"RSA1" in response:
            self.feed(bytes.fromhex(group("security_exchange")["pdu"]))
            random = bytes.fromhex(group("security_exchange")["client_random"])
            keys = derive_keys(random, bytes(32), 2)
            self.security = StandardSecurity(keys, 2, is_server=False)
        default = vector("client_rdesktop_vrdp", "client-info-v5", "info_packet")
        self.log_on(info or default)
        is_rdp4 = blocks == "gcc-request-v4"
        sets = client_sets(800, 600, 16, keyboard_layout=0x409, is_rdp4=is_rdp4)
        self.confirm(sets[:-1])
        return self


ACTIVE = rdp.Activated(800, 600, 16)


def test_without_tls_it_comes_again_without_negotiation() -> None:
    assert Rdesktop(RDP).refused(FIRST) == CODES[2]
    again = Rdesktop(RDP)
    assert again.negotiate(PLAIN) == CONFIRM
    again.go_on().finish()
    assert ACTIVE in again.seen
    assert again.security is not None


def test_without_a_certificate_and_without_standard_security_it_is_refused() -> None:
    first = Rdesktop(TLS, has_certificate=False)
    assert first.refused(FIRST) == CODES[3]
    again = Rdesktop(TLS, has_certificate=False)
    assert again.refused(PLAIN) == CONFIRM  # 1.3: and closes, there is no code


@pytest.mark.parametrize("methods", [RDP, BOTH])
def test_after_a_failed_handshake_it_asks_for_nothing(
    methods: frozenset[Method],
) -> None:
    again = Rdesktop(methods)
    assert again.negotiate(ZERO) == SELECTED
    again.go_on().finish()
    assert ACTIVE in again.seen


def test_after_a_failed_handshake_where_only_tls_is_allowed() -> None:
    assert Rdesktop(TLS).refused(ZERO) == CODES[1]


@pytest.mark.parametrize("methods", [TLS, BOTH])
def test_under_tls(methods: frozenset[Method]) -> None:
    raw = Rdesktop(methods)
    assert raw.negotiate(FIRST) == vector("x224", "vrdp-cc-selected-tls", "bytes")
    assert raw.seen[-1] == rdp.TlsRequested()
    raw.server.tls_started()
    raw.go_on("gcc-request-tls").finish()
    assert raw.security is None
    assert ACTIVE in raw.seen


def malformed(user: str, password: str) -> bytes:
    """Client Info of version 4: no terminators after what is empty (8.6)."""
    texts = [text.encode("utf-16-le") for text in ("", user, password, "", "")]
    head = struct.pack("<II5H", 0, 0x133, *map(len, texts))
    return head + b"".join(text + b"\0\0" for text in texts if text)


@pytest.mark.parametrize("is_clear", [True, False])
@pytest.mark.parametrize(("user", "password"), [("john", ""), ("john", "pw"), ("", "")])
def test_version_4_and_its_malformed_client_info(
    user: str, password: str, is_clear: bool
) -> None:
    raw = Rdesktop(RDP)
    assert raw.negotiate(PLAIN) == CONFIRM
    raw.go_on("gcc-request-v4", malformed(user, password), is_clear=is_clear)
    (logon,) = [e for e in raw.seen if isinstance(e, rdp.LogonRequested)]
    assert (logon.credentials.user, logon.credentials.password) == (user, password)
    assert logon.client.kind == "RDP4"
    raw.feed(raw.data(DataType.FONT_LIST, share.font_list(1)))
    assert ACTIVE not in raw.seen
    raw.feed(raw.data(DataType.FONT_LIST, share.font_list(2)))
    assert raw.seen[-1:] == [ACTIVE]
    assert (raw.security is None) is is_clear
