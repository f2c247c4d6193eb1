"""Machines that run: ``headless``, ``startvm``, ``controlvm``."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import rusb
from rusb.aio.output import write_line
from rusb.cli._advice import advised
from rusb.cli._common import (
    open_more_files,
    run_async,
    say,
    set_up_logging,
    until_signal,
)
from rusb.cli._hints import did_you_mean
from rusb.cli._vbox_options import Option, UsageError, on_off, one_of
from rusb.errors import ControlError, GuestError, RusbError, SettingsError
from rusb.server.state import MachineState
from rusb.server.vbox.engine import ENGINE_KEY, Engine
from rusb.server.vbox.files import make_folder
from rusb.server.vbox.grace import parse_seconds
from rusb.server.vbox.hardware import load_hardware
from rusb.server.vbox.model import Hardware
from rusb.server.vbox.ports import check_address, check_ports
from rusb.server.vbox.settings import Machine
from rusb.server.vbox.storage_mode import Storage
from rusb.usb.text import clean_text

from . import _console, _media, _refused, _teleport, _vrde
from ._common import (
    ask_running,
    given,
    is_running,
    live_state,
    machine_of,
    registry,
    warn,
)
from ._host import open_host

__all__ = ["COMMANDS"]

START_TIMEOUT = 40.0
"""Seconds that ``startvm`` waits for a machine."""

STOP_TIMEOUT = 15.0
"""Seconds for a machine that did not start in time to end by itself."""

MAX_WORDS = 4096
"""Bytes of what a machine that does not start says."""

MAX_PROPERTIES = 16
"""Times that ``-e`` may be given."""

_PREFIX = "rusb: error: "
"""What the process says before the reason why it ends."""

_TYPES = ("headless", "vrdp", "gui", "sdl", "separate")
"""Words of ``--type``; every machine starts headless."""

_STATES = {"on": True, "enable": True, "off": False, "disable": False}


def headless(words: Sequence[str]) -> int:
    """``headless --startvm NAME|UUID [--vrde on|off|config] [-e NAME=[VALUE]]``.

    Without ``--vrde`` the remote display is on, as the manual says of VBoxHeadless.
    """
    options = (
        Option("startvm", short="s"),
        Option("vrde", short="v"),
        Option("vrdp", instead="vrde"),
        Option("vrde-property", short="e"),
        Option("vrdeport", short="p"),
        Option("vrdpport", instead="vrdeport"),
        Option("vrdeaddress", short="a"),
        Option("vrdpaddress", instead="vrdeaddress"),
        Option("storage"),
        Option("resume"),
        Option("hold"),
        *_refused.HEADLESS,
    )
    found = given(words, options, count=0)
    _report(
        f"rusb Headless Interface {rusb.__version__}\n"
        "Copyright (c) 2026 the rusb developers. Released under the MIT licence.\n"
    )
    known = registry()
    entry = known.find(found.need("startvm", "a machine's name or UUID"))
    machine = machine_of(entry)
    display = machine.remote_display
    word = (found.last("vrde") or "on").lower()
    if word not in (*_STATES, "config"):
        raise UsageError(
            f"invalid value {word!r} for --vrde; choose one of on, off, config"
        )
    if storage := found.last("storage"):
        try:
            machine.storage = Storage.parse(storage)
        except SettingsError as error:
            raise UsageError(f"--storage: {error}") from error
    machine.resume = _seconds("resume", found.last("resume"))
    machine.hold = _seconds("hold", found.last("hold"))
    properties = dict(display.properties)
    given_properties = [v for n, (v, *_) in found.options if n == "vrde-property"]
    if len(given_properties) > MAX_PROPERTIES:
        raise UsageError(f"at most {MAX_PROPERTIES} properties")
    for text in given_properties:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is not NAME=[VALUE]")
        _vrde.note_property(name, value)
        properties[name] = _vrde.check_property(name, value)
    if port := found.last("vrdeport"):
        properties["TCP/Ports"] = check_ports(port)
    if address := found.last("vrdeaddress"):
        properties["TCP/Address"] = check_address(address)
    machine.remote_display = replace(
        display,
        enabled=_STATES.get(word, display.enabled),
        properties={n: v for n, v in properties.items() if v},
        auth_library=display.auth_library or known.get_property("VRDEAuthLibrary"),
    )
    set_up_logging(0)
    hardware = load_hardware(entry.path, machine.usb_controllers)
    log = entry.path.parent / "Logs" / "VBox.log"
    make_folder(log.parent)
    notes = [f"not supported: {part}" for part in hardware.not_run]
    open_more_files()
    return run_async(_run(machine, hardware, log, notes))


def _report(text: str) -> None:
    """Tell the terminal; a pipe that nobody reads any more, or now, ends no machine."""
    with contextlib.suppress(OSError):
        write_line(sys.stdout, text)


async def _run(
    machine: Machine, hardware: Hardware, log: Path, notes: Sequence[str]
) -> int:
    from rusb.server.machine.running import (
        RunningMachine,  # no other command needs so much
    )

    async with RunningMachine(
        machine,
        hardware,
        log=str(log),
        report=_report,
        notes=notes,
        host_usb=open_host,
    ) as running:
        status = f"the machine {machine.name!r} is running"
        number = await until_signal(running.wait_ended(), status)
        if number is not None:
            running.power_off(signal.Signals(number).name)
    if running.failure:
        raise GuestError(running.failure)
    return 0


def startvm(words: Sequence[str]) -> int:
    """``startvm VM… [--type headless] [--engine qemu|libvirt]``.

    One that fails does not keep the others. An engine with which a machine starts is
    kept in its settings.
    """
    found = given(words, (Option("type"), Option("engine"), *_refused.STARTVM))
    kind = one_of("type", found.last("type") or "gui", _TYPES)
    if not found.words:
        raise UsageError("no machine was named")
    if kind == "vrdp":
        say("Warning: --type vrdp is deprecated; use headless")
    engine = found.last("engine")
    if engine is not None:
        one_of("engine", engine, [e.value for e in Engine])
    failed = 0
    for name in found.words:
        try:
            _start_named(name, engine)
        except RusbError as error:
            if len(found.words) == 1:
                raise
            say(f"{_PREFIX}{clean_text(advised(error))}")
            failed += 1
    if failed < len(found.words) and kind not in ("headless", "vrdp"):
        say(
            "rusb has no window: the machine starts headless. Any RDP viewer shows its"
            " screen (modifyvm VM --vrde on; showvminfo has the port), and controlvm VM"
            " screenshotpng FILE saves a picture of it"
        )
    return 1 if failed else 0


def _start_named(name: str, engine: str | None) -> None:
    """Start a machine, and say so."""
    known = registry()
    entry = known.find(name)
    before = machine_of(entry).extra_data.get(ENGINE_KEY, "")
    state = live_state(entry.uuid)
    if state is not None and state.state == "teleported":  # its devices come over here
        ask_running(entry.uuid, "teleportwait")
        state = live_state(entry.uuid) or state
    elif is_running(entry.uuid):
        raise ControlError(f"the machine {entry.name!r} is already running")
    else:
        if engine:
            known.edit(entry, lambda e: e.set_extra(ENGINE_KEY, engine))
        print(f'Waiting for VM "{entry.name}" to power on...', flush=True)
        try:
            state = _start(entry.uuid, entry.name, entry.path)
        except ControlError:
            if engine:  # the next start is not to fail for the same reason
                known.edit(entry, lambda e: e.set_extra(ENGINE_KEY, before))
            raise
    if state.waits:
        where = f"port {state.waits}"
        print(f'VM "{entry.name}" waits for a teleport on {where}.', flush=True)
    else:
        print(f'VM "{entry.name}" has been successfully started.', flush=True)
    for note in state.notes:
        warn(note)
    if state.display.port == 0:
        log = entry.path.parent / "Logs" / "VBox.log"
        say(f"Warning: its VRDE server did not start; {log} says why")


def _start(uuid: str, name: str, path: Path) -> MachineState:
    """Start ``rusb headless`` as a process of its own; return the machine's state."""
    command = [sys.executable, "-m", "rusb", "headless", "--startvm", str(path)]
    command += ["--vrde", "config"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while (state := _state_of(uuid, process.pid)) is None:
            if process.poll() is not None:
                output.seek(0)
                words = output.read(MAX_WORDS).decode(errors="replace").strip()
                words = words[max(words.find(_PREFIX), 0) :].removeprefix(_PREFIX)
                raise ControlError(f"{name!r} did not start: {words}")
            if time.monotonic() > deadline:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT)
                process.kill()
                raise ControlError(f"{name!r} did not start within {START_TIMEOUT:g} s")
            time.sleep(0.1)
    process.returncode = 0  # it goes on without us
    return state


def _state_of(uuid: str, process: int) -> MachineState | None:
    """The state of a machine, if this process has it running already."""
    try:
        state = live_state(uuid)
    except ControlError:  # it has the lock, and does not listen yet
        return None
    return state if state and state.process == process else None


_VERBS = _console.VERBS | _teleport.VERBS

_PLAIN = ("poweroff", "acpipowerbutton", "reset", "pause", "resume")
_VALUED = (
    *("vrde", "vrdeport", "vrdeproperty", "vrdevideochannelquality"),
    *("usbattach", "usbdetach"),
)
_RENAMED = {
    "vrdp": "vrde",
    "vrdpport": "vrdeport",
    "vrdpproperty": "vrdeproperty",
    "vrdpvideochannelquality": "vrdevideochannelquality",
}


def _seconds(option: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parse_seconds(text)
    except SettingsError as error:
        raise UsageError(f"--{option}: {error}") from error


def controlvm(words: Sequence[str]) -> int:
    """Tell a running machine to do something.

    ``controlvm VM poweroff|acpipowerbutton|acpisleepbutton|reset|pause|resume``
    ``controlvm VM vrde|vrdeport|vrdeproperty|vrdevideochannelquality VALUE``
    ``controlvm VM usbattach|usbdetach UUID|ADDRESS``
    ``controlvm VM clipboard mode MODE``, ``controlvm VM audioout on|off``
    ``controlvm VM teleport --host HOST --port PORT``
    ``controlvm VM natpf1|setlinkstate1|screenshotpng VALUE…``
    ``controlvm VM keyboardputscancode|keyboardputstring|keyboardputfile VALUE…``
    """
    if words[1:2] and words[1] in _VERBS:
        name, verb, *values = words  # a text may begin with a dash
        _VERBS[verb](registry().find(name).uuid, values)
        return 0
    found = given(words, _refused.CONTROL_OPTIONS)
    if len(found.words) < 2:
        what = "command" if found.words else "machine"
        raise UsageError(f"no {what} was named; commands are {_known()}")
    name, verb, *values = found.words
    if verb in _RENAMED:
        say(f"Warning: {verb} is deprecated; use {_RENAMED[verb]}")
        verb = _RENAMED[verb]
    uuid = registry().find(name).uuid
    if verb in _media.CONTROL:
        _media.CONTROL[verb](uuid, values)
        return 0
    if verb in _refused.CONTROL:
        raise SettingsError(f"controlvm {verb}: {_refused.CONTROL[verb]}")
    if verb in _PLAIN and not values:
        ask_running(uuid, verb)
        if verb == "poweroff":
            _wait_off(uuid)
        return 0
    if verb in _PLAIN:
        raise UsageError(f"{verb} accepts no value; unexpected {values[0]!r}")
    if len(values) != 1 and verb in _VALUED:
        raise UsageError(f"{verb} needs one value")
    value = "".join(values[:1])
    match verb:
        case "vrde":
            ask_running(uuid, "vrde", enabled=on_off("vrde", value))
        case "vrdeport":
            ports = check_ports("3389" if value in ("default", "0") else value)
            ask_running(uuid, "vrdeproperty", name="TCP/Ports", value=ports)
        case "vrdeproperty":
            key, equals, text = value.partition("=")
            if not equals:
                raise UsageError(f"{value!r} is not NAME=VALUE")
            _vrde.note_property(key, text)
            if key == "TCP/Ports" and not text:
                text = "0"
            text = _vrde.check_property(key, text)
            ask_running(uuid, "vrdeproperty", name=key, value=text)
        case "vrdevideochannelquality":
            key = _vrde.QUALITY
            _vrde.note_property(key, value)
            ask_running(uuid, "vrdeproperty", name=key, value=value)
        case "usbattach" | "usbdetach":
            if "remote" in value.lower() and verb == "usbattach":
                raise SettingsError(
                    f"controlvm {verb} {value}: the machine's filters decide on"
                    " devices at clients; see usbfilter explain"
                )
            ask_running(uuid, verb, device=value)
        case _:
            known = (*_PLAIN, *_VALUED, *_media.CONTROL, *_VERBS)
            hint = did_you_mean(verb, known) or f"; choose one of {_known()}"
            raise UsageError(f"unknown command {verb!r}{hint}")
    return 0


def _known() -> str:
    """Return what may follow the machine, as VirtualBox's manual has it."""
    found = {*_PLAIN, *_VALUED, *_media.CONTROL, *_VERBS}
    names = {f"{w[:-1]}<1-N>" if w[-1].isdigit() else w for w in found}
    return ", ".join(sorted(names))


def _wait_off(uuid: str) -> None:
    """Wait until the machine can be changed, started or removed again."""
    deadline = time.monotonic() + START_TIMEOUT
    while is_running(uuid):
        if time.monotonic() > deadline:
            raise ControlError(
                f"the machine did not power off within {START_TIMEOUT:g} s"
            )
        time.sleep(0.05)


COMMANDS = {"headless": headless, "startvm": startvm, "controlvm": controlvm}
