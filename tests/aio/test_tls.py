"""Certificates that are made once, pins that hold."""

import ssl
from pathlib import Path

import pytest

from rusb.aio.tls import (
    KnownServers,
    client_context,
    fingerprint,
    make_self_signed,
    server_context,
)
from rusb.errors import CertificateError, SettingsError


def test_a_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    certificate, key = make_self_signed(tmp_path)
    before = certificate.read_bytes(), key.read_bytes()
    assert make_self_signed(tmp_path) == (certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_self_made_certificate_loads_with_tls_1_2_as_the_floor(
    tmp_path: Path,
) -> None:
    context = server_context(*make_self_signed(tmp_path), None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    client_context(make_self_signed(tmp_path)[0])


def test_missing_certificate_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere.pem"):
        server_context(tmp_path / "nowhere.pem", tmp_path / "key.pem", None)


def test_files_that_are_no_pem_are_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    with pytest.raises(SettingsError, match=r"junk.pem.*not a PEM"):
        server_context(junk, junk, None)
    with pytest.raises(SettingsError, match=r"junk.pem: it contains no PEM"):
        client_context(junk)
    with pytest.raises(SettingsError, match="nowhere.pem: No such file"):
        client_context(tmp_path / "nowhere.pem")


def test_a_new_server_is_pinned_and_known_from_then_on(tmp_path: Path) -> None:
    known = KnownServers(tmp_path / "deep" / "known")
    assert known.check("a:3389", b"one")
    assert not known.check("a:3389", b"one")
    assert known.check("b:3389", b"two")
    assert not KnownServers(tmp_path / "deep" / "known").check("a:3389", b"one")


def test_t45_a_changed_certificate_is_refused_and_the_pin_stays(
    tmp_path: Path,
) -> None:
    known = KnownServers(tmp_path / "known")
    known.check("a:3389", b"one")
    with pytest.raises(CertificateError, match="has changed") as caught:
        known.check("a:3389", b"other")
    assert fingerprint(b"one") in str(caught.value)
    assert str(tmp_path / "known") in str(caught.value)
    assert not known.check("a:3389", b"one")


def test_a_list_of_pins_that_is_too_long_is_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was beyond 1 MiB was not compared, and gone with the next new server."""
    path = tmp_path / "known"
    lines = [f"host{n}:3389 {fingerprint(b'one')}\n" for n in range(13_000)]
    path.write_text("".join(lines))
    size = path.stat().st_size
    assert size > 1 << 20
    known = KnownServers(path)
    for server in ("host0:3389", "host12999:3389", "new:3389"):
        with pytest.raises(SettingsError, match=r"known: the list .* at most 1 MiB; r"):
            known.check(server, b"other")
        assert known.knows(server)  # so that nobody is asked without TLS
    assert path.stat().st_size == size
    path.write_text("".join(lines[:11_500]))
    room = (1 << 20) - path.stat().st_size
    with path.open("a") as file:
        file.write("#" * (room - 10) + "\n")
    with pytest.raises(SettingsError, match="at most 1 MiB"):
        known.check("new:3389", b"one")
    assert not known.check("host0:3389", b"one")  # it is as it was


def test_what_people_write_beside_the_pins_stays(tmp_path: Path) -> None:
    path = tmp_path / "known"
    before = f"# ours\nb:1 {fingerprint(b'one')} the lab\n\nc:1\n# \xff".encode(
        "latin-1"
    )
    path.write_bytes(before)
    known = KnownServers(path)
    assert not known.check("b:1", b"one")
    assert known.check("a:1", b"one")
    assert path.read_bytes() == before + f"\na:1 {fingerprint(b'one')}\n".encode()
    with pytest.raises(CertificateError, match="b:1 has changed"):
        known.check("b:1", b"other")
    with pytest.raises(CertificateError, match="c:1 has changed: it was unreadable"):
        known.check("c:1", b"one")  # a line that was cut pins nothing else
    assert known.check("ours:1", b"one")
