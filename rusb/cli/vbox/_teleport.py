"""Options and commands about moving a running machine to another host."""

import sys
from collections.abc import Callable
from pathlib import Path

from rusb.cli._vbox_options import UsageError, on_off, unsigned
from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.teleporter import MAX_PORT

__all__ = ["CHANGES", "read_password"]

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


def read_password(name: str) -> str:
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
    "teleporter-address": lambda e, v: e.set_teleporter(address=v),
    "teleporter-password": _password,
    "teleporter-password-file": lambda e, v: _password(e, read_password(v)),
}
"""Options of ``modifyvm``."""
