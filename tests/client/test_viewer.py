"""Which viewer is started, with which words; the lab starts real ones."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rusb.aio.tls import fingerprint
from rusb.client.config import ClientConfig
from rusb.client.session import ClientSession, connect
from rusb.client.viewer import ViewerProgram, find_viewer, has_display, view
from rusb.errors import ConnectionLost, SettingsError
from tests.support.whole_path import Lab, machine

FAKE = f"""#!{sys.executable}
import json, os, pathlib, sys, time
home = pathlib.Path(os.environ["HOME"])
known = home / ".local/share/rdesktop/certs/known_certs"
place = pathlib.Path(sys.argv[0]).with_suffix(".json")
print("it was here")
found = dict(
    words=sys.argv[1:],
    stdin=sys.stdin.read(),
    env=dict(os.environ),
    known=known.read_text() if known.exists() else "",
    kept=sorted(path.name for path in home.iterdir()) if known.exists() else [],
)
(place.with_suffix(".part")).write_text(json.dumps(found))
place.with_suffix(".part").rename(place)
if os.environ.get("STATUS"):
    sys.exit(int(os.environ["STATUS"]))
while True:
    time.sleep(1)
"""
"""Notes what it was given, then ends with a status or stays."""


def fake(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(FAKE)
    path.chmod(0o755)
    return path


@pytest.fixture
async def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ClientSession]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUSB_PASSWORD", "s3cret")
    monkeypatch.delenv("STATUS", raising=False)
    (tmp_path / ".rdesktop").mkdir()
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(30), lab.server:
        config = lab.config()
        config.user, config.password, config.domain = "anna", "s3cret", "@1"
        config.is_usb_only = True
        async with connect(config, backends=[]) as session:
            yield session


def is_there(path: str) -> bool:
    return Path(path).exists()


async def noted(path: Path) -> dict[str, object]:
    """What a fake viewer was given."""
    note = path.with_suffix(".json")
    while not note.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    found: dict[str, object] = json.loads(note.read_text())
    return found


async def test_freerdp_is_told_the_certificate_and_gets_the_password_on_stdin(
    session: ClientSession, tmp_path: Path
) -> None:
    path = fake(tmp_path, "xfreerdp")
    program = find_viewer(f"{path} /sound")
    assert program is not None
    async with view(session, program, [("-a", "16"), ("-N", ""), ("-B", "")]):
        found = await noted(path)
    assert session.certificate is not None
    digest = fingerprint(session.certificate).partition(":")[2]
    words = found["words"]
    assert isinstance(words, list)
    (certificate,) = (word for word in words if word.startswith("/cert:"))
    shown = certificate.removeprefix("/cert:deny,fingerprint:sha256:")
    assert bytes.fromhex(shown.replace(":", "")).hex() == digest
    assert words[0].startswith("/v:127.0.0.1:")
    assert words[0] != f"/v:127.0.0.1:{session.config.port}"
    assert words[-1] == "/sound"
    for word in ("/sec:tls", "/u:anna", "/d:@1", "/from-stdin:force", "/bpp:16"):
        assert word in words
    assert f"/t:{session.config.server} - rusb" in words
    assert found["stdin"] == "s3cret\n"
    assert "s3cret" not in json.dumps([words, found["env"]])


async def test_rdesktop_knows_the_key_alone_in_a_home_of_its_own(
    session: ClientSession, tmp_path: Path
) -> None:
    path = fake(tmp_path, "rdesktop")
    program = find_viewer(str(path))
    assert program is not None
    options = [("-a", "16"), ("-N", ""), ("-T", "My title"), ("-r", "sound:local")]
    async with view(session, program, options):
        found = await noted(path)
    words, env = found["words"], found["env"]
    assert isinstance(words, list)
    assert isinstance(env, dict)
    before = ["-a", "16", "-N", "-T", "My title", "-r", "sound:local"]
    assert words[:-1] == [*before, "-u", "anna", "-d", "@1", "-p", "-"]
    assert words[-1].startswith("127.0.0.1:")
    assert found["stdin"] == "s3cret\n"
    assert "s3cret" not in json.dumps([words, env])
    assert session.certificate is not None
    key = x509.load_der_x509_certificate(session.certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found["known"] == (
        f"|g0|127.0.0.1|rdesktop|0|{base64.b64encode(spki).decode()}\n"
    )
    assert found["kept"] == [".local", ".rdesktop"]
    assert not is_there(env["HOME"])  # gone with it
    assert (tmp_path / ".rdesktop").exists()  # not so what it leads to


@pytest.mark.parametrize(
    ("status", "reason"), [(0, 0), (62, 0), (1, 1), (7, 7), (12, 12)]
)
async def test_a_window_that_is_closed(
    status: int,
    reason: int,
    session: ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATUS", str(status))
    program = find_viewer(str(fake(tmp_path, "rdesktop")))
    assert program is not None
    async with view(session, program) as viewer:
        assert await viewer.wait_closed() == reason


async def test_a_viewer_that_fails_is_quoted(
    session: ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATUS", "131")
    program = find_viewer(str(fake(tmp_path, "xfreerdp")))
    assert program is not None
    async with view(session, program) as viewer:
        with pytest.raises(ConnectionLost, match="status 131. It said: it was here"):
            await viewer.wait_closed()


async def test_the_viewer_ends_with_the_session(
    session: ClientSession, tmp_path: Path
) -> None:
    path = fake(tmp_path, "xfreerdp")
    program = find_viewer(str(path))
    assert program is not None
    async with view(session, program) as viewer:
        await noted(path)
        assert viewer._process.returncode is None
    assert viewer._process.returncode == -15


async def test_no_password_with_a_line_break(
    session: ClientSession, tmp_path: Path
) -> None:
    program = find_viewer(str(fake(tmp_path, "xfreerdp")))
    assert program is not None
    session.config.password = "two\nlines"
    with pytest.raises(SettingsError, match="line break"):
        async with view(session, program):
            pass


async def test_a_program_that_does_not_start(
    session: ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "xfreerdp"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(SettingsError, match="freerdp: No such file or directory$"):
        async with view(session, ViewerProgram(str(path), (), is_freerdp=True)):
            pass


@pytest.mark.parametrize(
    ("installed", "wayland", "found"),
    [
        ("xfreerdp3 xfreerdp rdesktop", False, "xfreerdp3"),
        ("xfreerdp rdesktop", False, "xfreerdp"),
        ("rdesktop krdc", False, "rdesktop"),
        ("krdc", False, None),
        ("xfreerdp wlfreerdp", True, "wlfreerdp"),
        ("rdesktop", True, None),
    ],
)
def test_the_first_that_is_installed(
    installed: str,
    wayland: bool,
    found: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in installed.split():
        fake(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY" if wayland else "DISPLAY", ":1")
    assert has_display()
    program = find_viewer()
    assert (program.name if program else None) == found


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("no-such-viewer", "there is no program 'no-such-viewer'"),
        ("ls", "'ls' is neither FreeRDP nor rdesktop"),
        ("xfreerdp 'one", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_used(command: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        find_viewer(command)


FREERDP = [  # rdesktop's options and FreeRDP's words, by their manuals
    ("-a", "24", ["/bpp:24"]),
    ("-g", "1024x768", ["/size:1024x768"]),
    ("-g", "1024x768+10+20", ["/size:1024x768", "/window-position:10x20"]),
    ("-g", "1024x768-10+20", ["/size:1024x768"]),
    ("-g", "80%", ["/size:80%"]),
    ("-g", "workarea", ["/workarea"]),
    ("-f", "", ["/f"]),
    ("-T", "a b", ["/t:a b"]),
    ("-k", "de", []),
    ("-N", "", []),
    ("-D", "", ["-decorations"]),
    ("-K", "", ["-grab-keyboard"]),
    ("-m", "", ["-mouse-motion"]),
    ("-x", "modem", ["/network:modem"]),
    ("-x", "b", ["/network:broadband"]),
    ("-x", "l", ["/network:lan"]),
    ("-x", "8f", []),
    ("-n", "desk", ["/client-hostname:desk"]),
    ("-X", "123", ["/parent-window:123"]),
    ("-0", "", ["/admin"]),
    ("-z", "", ["+compression"]),
    ("-s", "cmd", ["/shell:cmd"]),
    ("-c", "C:\\", ["/shell-dir:C:\\"]),
    ("-r", "sound", ["/sound"]),
    ("-r", "sound:local", ["/sound"]),
    ("-r", "sound:local:alsa", ["/sound:sys:alsa"]),
    ("-r", "sound:local:alsa:hw:0", ["/sound:sys:alsa"]),
    ("-r", "sound:local:libao", ["/sound"]),
    ("-r", "sound:off", ["/audio-mode:2"]),
    ("-r", "sound:remote", ["/audio-mode:1"]),
    ("-r", "clipboard", ["+clipboard"]),
    ("-r", "clipboard:PRIMARYCLIPBOARD", ["+clipboard"]),
    ("-r", "clipboard:off", ["-clipboard"]),
    ("-r", "lspci", []),
    ("-b", "", []),
]


async def test_options_in_the_words_of_freerdp(
    session: ClientSession, tmp_path: Path
) -> None:
    path = fake(tmp_path, "xfreerdp")
    program = find_viewer(str(path))
    assert program is not None
    async with view(session, program, [("-T", "1")]):
        plain = (await noted(path))["words"]
    assert isinstance(plain, list)
    path.with_suffix(".json").unlink()
    pairs = [(letter, value) for letter, value, _ in FREERDP]
    async with view(session, program, [("-T", "1"), *pairs]):
        words = (await noted(path))["words"]
    assert isinstance(words, list)
    assert words[1 : len(plain)] == plain[1:]
    assert words[len(plain) :] == [w for _, _, given in FREERDP for w in given]


async def test_without_tls_the_viewer_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = machine().remote_display
    display.properties["Security/Method"] = "RDP"
    lab = Lab(tmp_path, machine(remote_display=display))
    path = fake(tmp_path, "xfreerdp")
    program = find_viewer(str(path))
    assert program is not None
    async with asyncio.timeout(30), lab.server:
        config = ClientConfig("127.0.0.1", lab.server.port, security=("rdp",))
        config.known_servers = tmp_path / "known"
        async with connect(config, backends=[]) as session, view(session, program):
            words = (await noted(path))["words"]
    assert isinstance(words, list)
    assert "/sec:rdp" in words
    assert not any(word.startswith("/cert") for word in words)
    assert "/from-stdin:force" not in words
