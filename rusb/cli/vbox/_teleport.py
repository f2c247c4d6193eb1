"""Options and commands about moving a running machine to another host."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rusb.cli._vbox_options import Option, UsageError, on_off, unsigned
from rusb.errors import ControlError, SettingsError
from rusb.oserrors import reason
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.ports import check_address
from rusb.server.vbox.teleporter import MAX_PORT
from rusb.usb.text import clean_text

from ._common import ask_running, given, warn, warn_of_password

__all__ = ["CHANGES", "VERBS"]

MAX_PASSWORD = 1024
"""Characters."""


def _enabled(editor: Editor, value: str) -> None:
    is_on = on_off("teleporter", value)
    editor.set_teleporter(enabled="true" if is_on else "false")


def _port(editor: Editor, value: str) -> None:
    editor.set_teleporter(port=str(unsigned("--teleporterport", value, MAX_PORT)))


def _password(editor: Editor, value: str) -> None:
    """Keep the hash; an empty password removes it."""
    from rusb.server.auth.hashes import hash_password  # takes time

    if len(value) > MAX_PASSWORD:
        raise UsageError(f"a password has at most {MAX_PASSWORD} characters")
    editor.set_teleporter(password=hash_password(value) if value else "")


def _seen_password(editor: Editor, value: str) -> None:
    if value:
        warn_of_password("--teleporterpasswordfile")
    _password(editor, value)


def _read_password(name: str) -> str:
    """Return the first line of a file; ``stdin``: of the standard input.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        if name == "stdin":
            return sys.stdin.readline(MAX_PASSWORD + 2).rstrip("\r\n")
        with Path(name).open(encoding="utf-8") as file:
            return file.readline(MAX_PASSWORD + 2).rstrip("\r\n")
    except OSError as error:
        raise SettingsError(
            f"cannot read a password from {name}: {reason(error)}"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the password in {name} is not UTF-8") from error


CHANGES: dict[str, Callable[[Editor, str], None]] = {
    "teleporter": _enabled,
    "teleporter-port": _port,
    "teleporter-address": lambda e, v: e.set_teleporter(address=check_address(v)),
    "teleporter-password": _seen_password,
    "teleporter-password-file": lambda e, v: _password(e, _read_password(v)),
}
"""Options of ``modifyvm``."""


# ---------------------------------------------------------------- controlvm ----

DEFAULT_DOWNTIME = 250
"""Milliseconds."""

MAX_DOWNTIME = 2_000_000

MAX_BANDWIDTH = 1_000_000
"""Megabytes a second."""

LOOK_PERIOD = 0.2

BAR = 20
"""Characters of the progress bar."""


def _teleport(uuid: str, words: Sequence[str]) -> None:
    """``teleport --host HOST --port PORT [--maxdowntime MS] [--password PASSWORD]``.

    Also ``--passwordfile FILE``, and ``--bandwidth MB``, which VirtualBox has not.
    """
    options = (
        *(Option("host"), Option("port")),
        *(Option("maxdowntime"), Option("password"), Option("passwordfile")),
        *(Option("bandwidth"), Option("detailed-progress", values=0)),
    )
    found = given(words, options, count=0)
    host = found.need("host", "the host that waits for the machine")
    port = unsigned("--port", found.need("port", "the target's port"), MAX_PORT)
    downtime = unsigned(
        "--maxdowntime",
        found.last("maxdowntime") or f"{DEFAULT_DOWNTIME}",
        MAX_DOWNTIME,
    )
    bandwidth = unsigned("--bandwidth", found.last("bandwidth") or "0", MAX_BANDWIDTH)
    if not port or not downtime or not host:
        raise UsageError("teleport needs a host, and a port and a downtime above 0")
    password = found.last("password") or ""
    if password:
        warn_of_password("--passwordfile")
    if name := found.last("passwordfile"):
        password = _read_password(name)
    ask_running(
        uuid,
        "teleport",
        host=host,
        port=port,
        password=password,
        downtime=downtime,
        bandwidth=bandwidth << 20,
    )
    _follow(uuid, f"{host}:{port}")


def _follow(uuid: str, where: str) -> None:
    """Show how far it is until it is over; Ctrl-C cancels."""
    shown = ""
    with _interrupts() as interrupts:
        while True:
            if interrupts:
                interrupts.clear()
                _cancel(uuid)
            try:
                state: Mapping[str, Any] = ask_running(uuid, "teleportstatus")
            except ControlError as error:
                raise ControlError(
                    f"{error}: it ended while it was being teleported; its log says why"
                ) from None
            text = _progress(state)
            if text != shown:
                shown = text
                _show(text)
            if state["is_over"]:
                break
            time.sleep(LOOK_PERIOD)
    if shown:
        _end_bar()
    if state["error"]:
        raise ControlError(clean_text(str(state["error"])))
    sent, downtime = state["transferred"] >> 20, state["downtime"]
    print(
        f"The machine now runs at {clean_text(where)}: {sent} MB transferred, paused"
        f" for {downtime * 1000:.0f} ms."
    )
    if count := state["devices"]:
        print(
            f"USB devices that still come through this host: {count}. Keep it running"
            " until their clients have followed the machine or disconnected; controlvm"
            " VM poweroff here unplugs them."
        )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect each Ctrl-C; asyncio loses one that comes when a question is answered."""
    found: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: found.append(number))
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


def _cancel(uuid: str) -> None:
    """Cancel, unless it is too late; then what is under way goes on."""
    try:
        ask_running(uuid, "teleportcancel")
    except ControlError as error:
        _end_bar()
        warn(str(error))


def _progress(state: Mapping[str, Any]) -> str:
    """Return a line: how far it is, as a bar on a terminal, else in tenths."""
    total, left = state["total"], state["remaining"]
    percent = 100 * max(total - left, 0) // total if total else 0
    if not sys.stdout.isatty():
        return f"{percent // 10 * 10}%..." if total else ""
    done = "#" * (percent * BAR // 100)
    sent = state["transferred"] >> 20
    return (
        f"[{done:.<{BAR}}] {percent}%, {sent} MB transferred, {left >> 20} MB remaining"
    )


def _show(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r{text}\x1b[K", end="", flush=True)
    elif text:
        print(text, end="", flush=True)


def _end_bar() -> None:
    print(flush=True)


VERBS: dict[str, Callable[[str, Sequence[str]], None]] = {"teleport": _teleport}
"""What follows ``controlvm VM``, and what runs it with the words after it."""
