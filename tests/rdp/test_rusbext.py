"""The messages of rusb's own channel: vectors, lengths, what is signed."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from rusb.errors import ParseError
from rusb.rdp import rusbext

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "rusbext.json").read_text("utf-8")
)


def decoded(message: rusbext.ExtMessage) -> dict[str, Any]:
    fields = ((name, getattr(message, name)) for name in message.__slots__)
    return {n: v.hex() if isinstance(v, bytes) else v for n, v in fields}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["name"]))
def test_both_directions_agree_with_the_vector(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    message = rusbext.parse(data)
    assert message is not None
    assert type(message).__name__ == vector["name"]
    assert decoded(message) == vector["decoded"]
    assert message.serialize() == data


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["name"]))
def test_a_message_cut_short_is_an_error_and_a_longer_one_is_fine(
    vector: dict[str, Any],
) -> None:
    data = bytes.fromhex(vector["hex"])
    for size in range(len(data)):
        with pytest.raises(ParseError):
            rusbext.parse(data[:size])
        if size >= 4:  # also with the size that it then has
            with pytest.raises(ParseError):
                rusbext.parse(data[:2] + size.to_bytes(2, "little") + data[4:size])
    longer = data[:2] + (len(data) + 5).to_bytes(2, "little") + data[4:] + b"later"
    assert rusbext.parse(longer) == rusbext.parse(data)
    with pytest.raises(ParseError, match="size field"):
        rusbext.parse(data + b"x")


def test_unknown_types_are_ignored_and_counted_ones_were_not_agreed_on() -> None:
    assert rusbext.parse(b"\x0f\x00\x04\x00") is None
    with pytest.raises(ParseError, match="type 16"):
        rusbext.parse(b"\x10\x00\x04\x00")
    with pytest.raises(ParseError):
        rusbext.parse(b"\x0f\x00\x01\x04" + bytes(1021))


def test_the_signature_of_the_vector_is_right() -> None:
    """docs/spec/resume.md 3.3: Ed25519 is deterministic."""
    by_name = {v["name"]: bytes.fromhex(v["hex"]) for v in VECTORS}
    hello, accept = rusbext.parse(by_name["Hello"]), rusbext.parse(by_name["Accept"])
    resume = rusbext.parse(by_name["Resume"])
    assert isinstance(hello, rusbext.Hello)
    assert isinstance(accept, rusbext.Accept)
    assert isinstance(resume, rusbext.Resume)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert key.public_key().public_bytes_raw() == accept.key
    digest = Hash(SHA256())
    digest.update(b"not a certificate")
    text = rusbext.text_to_sign(
        hello.nonce, resume.session, resume.received, digest.finalize()
    )
    assert len(text) == 102
    assert key.sign(text) == resume.signature
