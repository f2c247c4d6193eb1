"""A Python module as external library (vrdp-server.md 3.3).

It defines ``vrdp_auth3(caller, uuid, judgement, user, password, domain, is_logon,
client_id)``, which returns 0 (denied), 1 (granted) or 2 (ask the guest).
"""

import importlib
import importlib.util
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from rusb.errors import SettingsError

from .base import Judgement, Request, plain_name

__all__ = ["CALLER", "ENTRY", "Module", "foreign"]

ENTRY = "vrdp_auth3"
CALLER = "vrde"

Entry = Callable[[str, bytes | None, int, str, str, str, int, int], int]


class Module:
    """Loads the module when the first client logs on.

    Args:
        name: a dotted name, or the path of a ``.py`` file.
        machine_uuid: textual; empty: the module gets None.
    """

    def __init__(self, name: str, machine_uuid: str) -> None:
        self.title = f"{name}, entry point {ENTRY}"
        self._name = name
        self._uuid = machine_uuid
        self._entry: Entry | None = None
        self._loading = threading.Lock()

    def problem(self) -> str:
        """Say that it can never be loaded; all else is seen at the first logon."""
        return foreign(self._name)

    def who(self, request: Request) -> str:
        """Return the plain name: the module may compare whatever it likes."""
        return plain_name(request.user)

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Call it.

        Raises:
            SettingsError: it cannot be loaded.
        """
        return self._load()(
            *(CALLER, self._bytes(), int(judgement)),
            *(request.user, request.password, request.domain),
            *(1, request.client_id),
        )

    def logoff(self, client_id: int) -> None:
        """Call it with the logon flag 0; the result is ignored."""
        self._load()(CALLER, self._bytes(), 0, "", "", "", 0, client_id)

    def _bytes(self) -> bytes | None:
        return uuid.UUID(self._uuid).bytes_le if self._uuid else None

    def _load(self) -> Entry:
        with self._loading:
            if self._entry is None:
                self._entry = _find(self._name)
            return self._entry


def foreign(name: str) -> str:
    """Say of a library that it is one of VirtualBox's own kind; empty: it is not."""
    if not name.lower().endswith((".so", ".dll")):
        return ""
    return (
        f"libraries for VirtualBox, such as {name}, cannot be loaded, so nobody can log"
        " on; choose one of VBoxAuth, VBoxAuthSimple, null, or a Python module"
    )


def _find(name: str) -> Entry:
    try:
        if name.endswith(".py") or "/" in name:
            spec = importlib.util.spec_from_file_location(Path(name).stem, name)
            if spec is None or spec.loader is None:
                raise SettingsError(f"{name} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(name)
    except (ImportError, OSError, SyntaxError) as error:
        raise SettingsError(
            f"cannot load the authentication library {name}"
            f" ({type(error).__name__}); give a Python module or a .py file"
        ) from error
    entry: Entry | None = getattr(module, ENTRY, None)
    if not callable(entry):
        raise SettingsError(f"the authentication library {name} lacks {ENTRY}()")
    return entry
