"""What the commands share: the registry, machines by name, running ones."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from rusb.cli._vbox_options import Given, Option, UsageError, parse
from rusb.errors import ControlError, SettingsError
from rusb.server.vbox.lock import MachineLock, changing, holder_of, lock_path
from rusb.server.vbox.registry import Entry, Registry
from rusb.server.vbox.settings import Machine
from rusb.usb.text import clean_text

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Any

    from rusb.server.state import MachineState
    from rusb.server.vbox.editor import Editor

__all__ = [
    "ask_running",
    "change_stopped",
    "given",
    "is_running",
    "live_state",
    "machine_of",
    "registry",
    "say_changed",
    "say_note",
    "show",
    "stopped",
    "warn",
    "warn_of_password",
]


def registry() -> Registry:
    """The user's machines."""
    return Registry()


def given(
    words: Sequence[str],
    options: Sequence[Option],
    *,
    count: int | None = None,
    is_patient: bool = False,
) -> Given:
    """Read a command line, see :func:`parse`; deprecated names are warned of.

    Raises:
        UsageError: it is wrong, or has not *count* words.
    """
    found = parse(words, options, is_patient=is_patient)
    for warning in found.warnings:
        warn(warning)
    if count is not None and len(found.words) != count:
        extra = found.words[count:]
        raise UsageError(f"unexpected {extra[0]!r}" if extra else "too few arguments")
    return found


def show(text: str) -> None:
    """Print a line that may hold what a device or a file says (bad-inputs T42)."""
    print(clean_text(text))


def warn(text: str) -> None:
    """Say something that does not keep us from going on."""
    print(f"Warning: {clean_text(text)}", file=sys.stderr)


def warn_of_password(instead: str) -> None:
    """Say that others see a password that was typed; *instead* hides it."""
    from rusb.cli._common import PASSWORD_IS_SEEN  # brings asyncio, for few commands

    warn(f"{PASSWORD_IS_SEEN}; use {instead}")


def machine_of(entry: Entry) -> Machine:
    """Return the settings of a machine that the user named.

    Raises:
        SettingsError: they cannot be read.
    """
    if entry.machine is None:
        raise SettingsError(entry.problem)
    say_note(entry)
    return entry.machine


def say_note(entry: Entry) -> None:
    """Warn of what there is to know about the file of a machine that was named."""
    if entry.machine is not None and entry.machine.note:
        warn(entry.machine.note)


def ask_running(uuid: str, command: str, **arguments: object) -> "Any":
    """Send a command to a running machine.

    Raises:
        ControlError: it does not run, or refused.
    """
    import asyncio  # only with machines that run: it is half of a short command

    from rusb.server.machine.control import call, running_path

    return asyncio.run(call(running_path(uuid), command, **arguments))


def live_state(uuid: str) -> "MachineState | None":
    """The state of a running machine; None: it does not run.

    Raises:
        ControlError: it runs and does not answer, or its answer cannot be read.
    """
    if not is_running(uuid):
        return None
    try:
        state = ask_running(uuid, "info")
    except ControlError:
        if is_running(uuid):
            raise
        return None
    from rusb.server.state import MachineState

    return MachineState.from_json(state)


def is_running(uuid: str) -> bool:
    """Does the machine run, or is it being started or stopped?"""
    holder = holder_of(lock_path(uuid))
    return holder is not None and holder.is_running


@contextlib.contextmanager
def stopped(entry: Entry) -> Iterator[MachineLock]:
    """Keep a machine that does not run from being started meanwhile.

    Raises:
        ControlError: it runs.
    """
    if is_running(entry.uuid):
        raise ControlError(
            f"the machine {entry.name!r} is running; power it off first: controlvm"
            f" {shlex.quote(entry.name)} poweroff"
        )
    with changing(lock_path(entry.uuid)) as lock:
        yield lock


def change_stopped(name: str, change: Callable[["Editor"], None]) -> Machine:
    """Change a machine that does not run.

    Raises:
        ControlError: it runs.
        SettingsError: there is none such, or the change is not possible.
    """
    known = registry()
    entry = known.find(name)
    say_note(entry)
    with stopped(entry):
        return known.edit(entry, change)


def say_changed(uuid: str) -> None:
    """Let a running machine read its filters and extra data again."""
    if is_running(uuid):
        try:
            ask_running(uuid, "reload")
        except ControlError as error:
            warn(
                "Saved, but the running machine still uses the previous settings."
                f" Reason: {error}"
            )
