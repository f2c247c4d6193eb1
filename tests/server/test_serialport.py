"""The first serial port: --uartmode1, the settings file and QEMU's command line."""

import socket
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.machine.command_line import qemu_command
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import Editor, new_machine
from rusb.server.vbox.hardware import read_hardware
from rusb.server.vbox.model import Hardware
from rusb.server.vbox.serialport import SerialPort

MODES = [
    ("server", "a,b", 'hostMode="HostPipe"', "socket,id=com1,path={}/a,,b,server=on"),
    ("client", "pipe", 'server="false"', "socket,id=com1,path={}/pipe"),
    ("tcpserver", "2023", 'hostMode="TCP" path="2023" server="true"', "127.0.0.1"),
    ("tcpclient", "box:23", 'path="box:23" server="false"', "host=box,port=23"),
    ("file", "com1.log", 'hostMode="RawFile"', "file,id=com1,path={}/com1.log"),
]


@pytest.mark.parametrize(("word", "value", "in_file", "in_command"), MODES)
def test_every_mode(
    word: str,
    value: str,
    in_file: str,
    in_command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    editor = Editor(Document(new_machine("M")[1]))
    editor.set_serial(SerialPort.parse(word, value))
    assert in_file in editor.document.data.decode()
    assert editor.document.data.count(b'slot="0" enabled="true" IOBase="0x3f8"') == 1
    serial = read_hardware(editor.document, Path("/elsewhere")).serial
    command = qemu_command("m", "u", Hardware(serial=serial), [])
    chardev = command[command.index("-chardev") + 1]
    assert in_command.format(tmp_path) in chardev
    assert chardev.endswith("server=on,wait=off") == word.endswith("server")
    editor.set_serial(None)
    assert b"UART" not in editor.document.data


@pytest.mark.parametrize(
    ("word", "value", "sentence"),
    [
        ("file", "nowhere/x", "there is no directory /"),
        ("server", "", "there is no directory"),
        ("server", "plain", "already exists and is not a socket"),
        ("client", "x" * 200, "longer than 107 bytes"),
        ("tcpserver", "box:23", "'box:23' is not PORT"),
        ("tcpserver", "0", "'0' is not PORT"),
        ("tcpserver", "23,x=y", "is not PORT"),
        ("tcpclient", "23", "'23' is not HOST:PORT"),
        ("tcpclient", "a,server=on:23", "is not HOST:PORT"),
        ("tcpclient", "box:65536", "is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said(
    word: str,
    value: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch()
    with pytest.raises(SettingsError, match=sentence):
        SerialPort.parse(word, value)


def test_a_socket_that_a_machine_left_may_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert SerialPort.parse("server", str(path)).path == str(path)


def test_a_file_that_came_meanwhile_is_not_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "pipe").touch()
    serial = SerialPort("HostPipe", str(tmp_path / "pipe"), is_server=True)
    with pytest.raises(SettingsError, match="serial port: .* not a socket; .* mod"):
        qemu_command("m", "u", Hardware(serial=serial), [])


@pytest.mark.parametrize(
    "attributes",
    [
        'enabled="false" hostMode="RawFile" path="a"',
        'enabled="true" hostMode="HostDevice" path="/dev/ttyS0"',
        'enabled="true" hostMode="Disconnected"',
        'enabled="true" hostMode="HostPipe" path=""',
    ],
)
def test_what_is_not_connected_is_not_there(attributes: str) -> None:
    data = new_machine("M")[1].replace(
        b"<Network>", f'<UART><Port slot="0" {attributes}/></UART><Network>'.encode()
    )
    assert read_hardware(Document(data), Path()).serial is None


def test_tcp_raises_an_old_file() -> None:
    data = new_machine("M")[1].replace(b"1.18-linux", b"1.12-linux")
    editor = Editor(Document(data))
    editor.set_serial(SerialPort("TCP", "2023", is_server=True))
    assert (editor.raised_from, editor.version) == ("1.12-linux", (1, 15))
