"""Keys, streams and certificates of standard RDP security: every vector."""

import secrets
import struct
from typing import Any

import pytest

from rusb.errors import ParseError, RemoteProtocolError
from rusb.rdp.standard import (
    Direction,
    RsaKey,
    checksum,
    decrypt_random,
    derive_keys,
    encrypt_random,
    parse_certificate,
    proprietary_certificate,
    salted_checksum,
)
from tests.support.rdp.raw import group
from tests.support.rows import each_row


def by_id(vector: dict[str, Any]) -> str:
    return str(vector.get("id", vector.get("name")))


def little(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text), "little")


@pytest.mark.parametrize("v", group("session_keys"), ids=by_id)
def test_session_keys(v: dict[str, Any]) -> None:
    client, server = (bytes.fromhex(v[f"{end}_random"]) for end in ("client", "server"))
    keys = derive_keys(client, server, v["encryption_method"])
    assert keys.mac.hex() == v["mac_key"]
    assert keys.server_to_client.hex() == v["server_to_client"]
    assert keys.client_to_server.hex() == v["client_to_server"]
    assert len(keys.mac) == v["rc4_key_length"]


@each_row("v", group("mac"), ids=by_id)
def test_checksums(v: dict[str, Any]) -> None:
    key, text = bytes.fromhex(v["mac_key"]), v["data"]
    if isinstance(text, dict):
        text = text["repeat_byte"] * text["count"]
    data = bytes.fromhex(text)
    assert checksum(key, data).hex() == v["mac8"]
    for count in (0, 4097):
        wanted = v[f"salted_mac8_with_count_{count}"]
        assert salted_checksum(key, data, count).hex() == wanted


@pytest.mark.parametrize("v", group("rc4_streams"), ids=by_id)
def test_streams_and_their_key_changes(v: dict[str, Any]) -> None:
    plain, key = bytes.fromhex(v["plaintext_every_packet"]), v["initial_key"]
    wanted = v["ciphertext_of_packet_number"]
    direction = Direction(bytes.fromhex(key), b"mac", v["encryption_method"])
    back = Direction(bytes.fromhex(key), b"mac", v["encryption_method"])
    keys = {}
    for number in range(1, max(map(int, wanted)) + 1):
        sealed = direction.encrypt(plain)
        keys[number] = direction.key.hex()
        if str(number) in wanted:
            assert sealed[8:].hex() == wanted[str(number)]
        assert back.decrypt(sealed) == plain
    assert keys[1] == v["key_for_packets_1_4096"]
    assert keys[4096] == v["key_for_packets_1_4096"]
    assert keys[4097] == v["key_for_packets_4097_8192"]
    assert keys[8193] == v["key_for_packets_8193_12288"]


def test_a_packet_that_was_changed_is_refused() -> None:
    sealed = bytearray(Direction(b"k" * 16, b"m" * 16, 2).encrypt(b"pay 10"))
    sealed[-2] ^= 8
    with pytest.raises(RemoteProtocolError, match="packet 1 is wrong"):
        Direction(b"k" * 16, b"m" * 16, 2).decrypt(bytes(sealed))


def test_salted_checksums_are_verified_with_the_packets_number() -> None:
    mac = b"m" * 16
    sender, receiver = (Direction(b"k" * 16, mac, 2) for _ in range(2))
    for number in range(3):
        data = b"packet %d" % number
        sealed = salted_checksum(mac, data, number) + sender.encrypt(data)[8:]
        assert receiver.decrypt(sealed, is_salted=True) == data
    again = salted_checksum(mac, b"again", 2) + sender.encrypt(b"again")[8:]
    with pytest.raises(RemoteProtocolError, match="packet 4"):
        receiver.decrypt(again, is_salted=True)


@pytest.mark.parametrize("size", range(8))
def test_a_packet_shorter_than_a_checksum(size: int) -> None:
    with pytest.raises(ParseError):
        Direction(b"k" * 16, b"m" * 16, 2).decrypt(bytes(size))


@pytest.mark.parametrize("v", group("proprietary_certificates"), ids=by_id)
def test_proprietary_certificates(v: dict[str, Any]) -> None:
    modulus = little(v["modulus"])
    certificate = bytes.fromhex(v["certificate_184"])
    assert proprietary_certificate(modulus, 65537) == certificate
    assert parse_certificate(certificate) == (modulus, 65537)


def test_a_certificate_cut_short() -> None:
    (v, _) = group("proprietary_certificates")
    whole = bytes.fromhex(v["certificate_184"])
    for size in range(184):
        print(size)  # the last one is shown if it fails
        if size < 100:
            with pytest.raises(ParseError):
                parse_certificate(whole[:size])
        elif size >= 108:  # the signature is not looked at
            assert parse_certificate(whole[:size])[1] == 65537, size


@pytest.mark.parametrize(
    "bad",
    [
        bytes(100),
        b"\x07" + bytes(99),
        b"\x02\0\0\0\0\0\0\0",
        b"\x02\0\0\0\xff\xff\xff\xff",
        b"\x02\0\0\0\x01\0\0\0\x04\0\0\0junk",
        b"\x02\0\0\x80\x01\0\0\0\xff\xff\xff\x7f",
    ],
)
def test_what_is_no_certificate(bad: bytes) -> None:
    with pytest.raises(ParseError):
        parse_certificate(bad)


def proprietary(modulus: bytes, exponent: int, *, said: int = 0) -> bytes:
    """A proprietary certificate of any key; *said* replaces the modulus' size."""
    size = said or len(modulus) + 8
    blob = b"RSA1" + struct.pack("<4I", size, 8 * len(modulus), 0, exponent)
    blob += modulus + bytes(8)
    return struct.pack("<III2H", 1, 1, 1, 6, len(blob)) + blob


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (proprietary(b"\1" * 64, 3, said=8), "RSA modulus of 0 bytes"),
        (proprietary(b"\1" * 64, 3, said=0xFFFF), "RSA modulus of 65527 bytes"),
        (proprietary(b"\1" * 63 + b"\0", 3), "RSA key of 63 bytes"),
        (proprietary(b"\1" * 64, 1), "exponent 1"),
        (proprietary(b"\2" + b"\1" * 63, 3), "RSA key of 64 bytes"),  # it is even
    ],
)
def test_t05_keys_that_nobody_should_use(bad: bytes, match: str) -> None:
    parse_certificate(proprietary(b"\1" * 64, 3))
    with pytest.raises(ParseError, match=match):
        parse_certificate(bad)


def test_the_security_exchange() -> None:
    v = group("security_exchange")
    numbers = v["rsa_key"]
    modulus = little(numbers["modulus"])
    key = RsaKey(int(numbers["p_int"], 16), int(numbers["q_int"], 16))
    assert key.modulus == modulus
    random = bytes.fromhex(v["client_random"])
    sealed = bytes.fromhex(v["encrypted_client_random_64"]) + bytes(8)
    assert encrypt_random(random, modulus, 65537) == sealed
    for source in (bytes, secrets.token_bytes):
        assert decrypt_random(sealed, key, source) == random
    for wrong in (b"", sealed[:-1], sealed + b"\0", bytes(1 << 16)):
        with pytest.raises(ParseError):
            decrypt_random(wrong, key, bytes)
    larger = b"\xff" * 72  # than the modulus
    assert len(decrypt_random(larger, key, bytes)) == 32


def test_what_a_peer_sends_never_meets_the_secret_exponents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the time that it takes would tell of them."""
    numbers = group("security_exchange")["rsa_key"]
    key = RsaKey(int(numbers["p_int"], 16), int(numbers["q_int"], 16))
    seen: list[set[int]] = []

    def spy(base: int, exponent: int, modulus: int) -> int:
        if exponent.bit_length() > 200:
            seen[-1].add(base % modulus)
        return pow(base, exponent, modulus)

    monkeypatch.setattr("rusb.rdp.standard.pow", spy, raising=False)
    sealed = bytes(range(1, 64)) + bytes(9)
    number = little(sealed.hex())
    for _ in range(2):
        seen.append(set())
        decrypt_random(sealed, key, secrets.token_bytes)
    assert [len(bases) for bases in seen] == [2, 2]
    assert not seen[0] & seen[1]
    assert not {number % key.p, number % key.q} & (seen[0] | seen[1])


@pytest.mark.parametrize("number", [0, 1, 2, 1 << 500])
def test_the_private_operation_undoes_the_public_one(number: int) -> None:
    numbers = group("security_exchange")["rsa_key"]
    key = RsaKey(int(numbers["p_int"], 16), int(numbers["q_int"], 16))
    private = little(numbers["private_exponent"])
    for blind in (1, 7, secrets.randbelow(key.modulus) | 1):
        assert key.decrypt(number, blind) == pow(number, private, key.modulus)
