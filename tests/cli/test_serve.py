"""``rusb serve`` as a user starts it."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from rusb.cli import main
from rusb.rdp.x224 import ConnectionRequest
from tests.lab.rusbserver import CHECKOUT, RusbServer, free_port

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a708}" name="Served">
    <Hardware>
      <RemoteDisplay enabled="true">
        <VRDEProperties>PROPERTIES</VRDEProperties>
      </RemoteDisplay>
    </Hardware>
  </Machine>
</VirtualBox>
"""


def text(**properties: str) -> str:
    """Return a .vbox file with VRDE properties ``Security/NAME``."""
    elements = (
        f'<Property name="Security/{name}" value="{value}"/>'
        for name, value in properties.items()
    )
    return MACHINE.replace("PROPERTIES", "".join(elements))


def handshake(port: int) -> str | None:
    """Do TLS 1.0 as rdesktop-vrdp 1.8 does; return the version that was agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(ConnectionRequest(protocols=1).serialize())
        assert len(sock.recv(19)) == 19
        with context.wrap_socket(sock) as secured:
            return secured.version()


@pytest.mark.parametrize("options", [(), ("--legacy-tls",)])
def test_tls_1_0_for_those_who_ask_for_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    server = RusbServer(tmp_path, text(), "--guest", "loopback", *options)
    try:
        server.wait_log("TCP server listening")
        if options:
            assert handshake(server.port) == "TLSv1"
            return
        with pytest.raises(OSError, match=r"SSL|reset|EOF"):
            handshake(server.port)
        server.wait_log("TLS handshake failed")
    finally:
        server.stop()


def test_a_certificate_that_cannot_be_used_is_said_at_the_terminal(
    tmp_path: Path,
) -> None:
    nowhere = str(tmp_path / "nowhere.pem")
    names = {"ServerCertificate": nowhere, "ServerPrivateKey": nowhere}
    server = RusbServer(tmp_path, text(**names), "--guest", "loopback")
    try:
        server.wait_log("TCP server listening")
        warning = f"WARNING: TLS: cannot read {nowhere}"
        assert any(line.startswith(warning) for line in server.said().splitlines())
    finally:
        server.stop()


def test_the_port_that_is_busy_is_named(tmp_path: Path) -> None:
    (tmp_path / "Machine.vbox").write_text(text())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["Machine.vbox", "--guest", "loopback", "--port", port]
        done = subprocess.run(
            [sys.executable, "-m", "rusb", "serve", *words, "--address", "127.0.0.1"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(CHECKOUT), "RUSB_STATE": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 76
    problem = f"can't bind to the port(s) {port}: all are in use"
    assert problem in done.stderr
    assert f" VRDP: {problem}" in (tmp_path / "Logs" / "VBox.log").read_text()


def test_a_machine_without_settings_from_the_first_to_the_last(tmp_path: Path) -> None:
    """By name alone: it serves, is listed, re-reads at SIGHUP, and ends by command."""
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        folders = {name: str(tmp_path) for name in ("RUSB_STATE", "RUSB_HOME")}
        env = {**os.environ, **folders, "RUSB_RUNTIME": runtime}

        def rusb(*words: str) -> str:
            command = [sys.executable, "-m", "rusb", *words]
            return subprocess.check_output(command, text=True, cwd=CHECKOUT, env=env)

        words = ["serve", "--name", "Bench", "--allow", "1209:", "--guest", "loopback"]
        words += ["--address", "127.0.0.1", "--port", str(free_port())]
        process = subprocess.Popen(
            [sys.executable, "-m", "rusb", *words],
            cwd=CHECKOUT,
            env=env,
            text=True,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "log in" in line:
                break
        try:
            assert rusb("list", "runningvms").startswith('"Bench" {')
            process.send_signal(signal.SIGHUP)
            assert "settings read again, 1 USB filters" in process.stderr.readline()
            assert 'VMState="running"' in rusb(
                "showvminfo", "Bench", "--machinereadable"
            )
            rusb("controlvm", "Bench", "poweroff")
            assert process.wait(20) == 0
            assert rusb("list", "runningvms") == ""
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "which machine?"),
        (["--name", "Lab"], "--name wants --allow RULE"),
        (["Lab", "--allow", "1209:"], "--allow and --auth go with --name"),
        (["Lab", "--name", "Lab", "--allow", "1209:"], "not both"),
        (["nowhere.vbox"], "nowhere.vbox"),
        (["Nobody"], "could not find a registered machine named 'Nobody'"),
    ],
)
def test_what_names_no_machine_is_told(
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RUSB_HOME", "RUSB_STATE", "RUSB_RUNTIME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["serve", *words]) != 0
    assert sentence in capsys.readouterr().err
