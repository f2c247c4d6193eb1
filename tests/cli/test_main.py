"""The command itself: sub-commands, usage errors, exit statuses."""

import inspect
import os
import pkgutil
import platform
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from rusb import __version__, cli, errors
from rusb.cli import _common, _words, main, vbox
from rusb.cli._status import STATUSES, exit_status
from rusb.cli.vbox import lists, running
from rusb.cli.vbox._refused import COMMANDS
from tests.support.program import RUSB
from tests.support.rusbserver import refusing_port
from tests.support.vbox import vbox_home

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{00000000-0000-0000-0000-000000000001}" name="M"><Hardware/></Machine>
</VirtualBox>
"""


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("bench", "connect", "demo", "devices", "plugins", "serve"):
        assert f"  {name} " in out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    assert "Commands:" in capsys.readouterr().out


def test_an_unknown_command_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 64
    assert "'rusb --help' lists them" in capsys.readouterr().err


def test_an_unknown_option_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["connect", "--frobnicate", "host"])
    assert caught.value.code == 64
    assert "'rusb connect --help'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (
            "conect host",
            64,
            "unknown command 'conect'; did you mean connect? 'rusb --help'",
        ),
        ("startmv Lab", 64, "did you mean startvm?"),
        ("list runingvms", 2, "; did you mean runningvms?"),
        # the word after an unknown option is not taken for the server
        ("connect --fitler 1209: host", 64, "'--fitler'; did you mean --filter? 'rusb"),
        ("serve --gest=loopback m.vbox", 64, "'--gest'; did you mean --guest?"),
        ("devices --jsn", 64, "did you mean --json?"),
        ("connect --force host extra", 64, "unrecognized arguments: extra; 'rusb"),
    ],
)
def test_a_wrong_word_is_asked_about(
    words: str, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found: object = main(words.split())
    except SystemExit as ended:
        found = ended.code
    assert found == status
    assert sentence in capsys.readouterr().err


def test_vboxmanage_does_not_propose_what_only_rusb_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called("VBoxManage", "conect host", monkeypatch) == 2
    assert "did you mean" not in capsys.readouterr().err
    assert called("VBoxManage", "createmv", monkeypatch) == 2
    assert "did you mean createvm?" in capsys.readouterr().err


def test_windows_is_told() -> None:
    """Before anything is imported that is not there."""
    missing = "{name: None for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios')}"
    code = (
        f"import sys; sys.modules |= {missing}; sys.platform = 'win32'\n"
        "from rusb.cli import main; sys.exit(main(['connect', 'host']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith("rusb: rusb does not run on Windows")
    assert "WSL 2" in done.stderr


@pytest.mark.parametrize("word", ["version", "--version", "-V"])
def test_the_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr().out == f"rusb {__version__}\n"


@pytest.mark.parametrize("option", ["--timeout", "--usb-timeout"])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_a_time_that_cannot_be_waited_for_is_refused(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["connect", "127.0.0.1:1", f"{option}={text}"])
    assert ended.value.code == 64
    said = capsys.readouterr().err
    assert f"argument {option}: {text!r} is invalid; give a number of seconds" in said


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for name in ("vrdpusb", "usbredir", "libusb", "emulated", "qemu", "pyusb"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["serve", "nowhere.vbox"], 65, "cannot read the machine's settings"),
        (["serve", "junk.vbox"], 65, "is not XML"),
        (["serve", "m.vbox", "--port", "x"], 64, "not a list of ports"),
        (["serve", "m.vbox", "--address", "a:5"], 64, "--address: 'a:5' is no address"),
        (["serve"], 64, "no machine was named; give its name or its .vbox file"),
        (["serve", "m.vbox", "--allow", "1:2"], 64, "--allow and --auth need --name"),
        (["serve", "m.vbox", "--name", "m"], 64, "give MACHINE or --name, not both"),
        (["serve", "--name", "m"], 64, "--name needs --allow RULE"),
        (["serve", "--name", "a/b", "--allow", "1:2"], 64, "--name: 'a/b' cannot be"),
        (
            ["serve", "m.vbox", "--guest", "toaster"],
            64,
            "'toaster'; choose one of kubevirt, libvirt",
        ),
        (["serve", "m.vbox", "--guest", "qemu:/nowhere"], 69, "/nowhere"),
        (["connect", "127.0.0.1:PORT"], 76, "to 127.0.0.1:PORT: Connection refused."),
        (["connect", "localhost:PORT"], 76, "to localhost:PORT: Connection refused."),
        (["connect", "127.0.0.1:1", "--filter", "colour=red"], 64, "unknown attribute"),
        (
            ["connect", "127.0.0.1:1", "--ca", "nowhere.pem"],
            65,
            "authorities of servers nowhere.pem",
        ),
    ],
)
def test_each_failure_has_its_sentence_and_status(
    words: list[str],
    status: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    with open("junk.vbox", "w") as junk, open("m.vbox", "w") as machine:
        junk.write("this is no XML")
        machine.write(MACHINE)
    if words[0] == "connect":
        words = [*words, "--backend", "emulated:loopback"]
    if words[0] == "serve":
        words = [*words, "--log", "log"]
    with refusing_port() as port:
        words = [word.replace("PORT", str(port)) for word in words]
        assert main(words) == status
    assert sentence.replace("PORT", str(port)) in capsys.readouterr().err


def test_the_most_special_class_decides_the_status() -> None:
    assert exit_status(errors.CertificateError("x")) == 78
    assert exit_status(errors.NegotiationError("x")) == 75
    assert exit_status(errors.RemoteProtocolError("x")) == 76
    assert exit_status(errors.NoPermission("x")) == 77
    assert exit_status(errors.RusbError("x")) == 70
    assert all(status > 63 for status, _ in STATUSES.values())


# -------------------------------------------------- the commands of VBoxManage ----


def called(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the program under a name."""
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}", *words.split()])
    return main()


def modules_of(package: ModuleType) -> list[str]:
    """Return the names of a package's modules without those that begin with _."""
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def test_the_tables_of_words_have_every_command() -> None:
    own = [name.replace("_", "-") for name in modules_of(cli) if name != "vbox"]
    assert list(_words.OWN) == own
    modules = {
        name: import_module(f"rusb.cli.vbox.{name}") for name in modules_of(vbox)
    }
    commands = [(w, name) for name, m in modules.items() for w in m.COMMANDS]
    assert sorted(commands) == sorted(_words.VBOX.items())


@pytest.mark.parametrize("word", sorted(vbox.commands()))
def test_each_command_has_a_usage(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On request it is no error; without words it is."""
    assert main([word, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: rusb {word} ")
    assert err == ""
    assert "`" not in out
    assert main(["help", word]) == 0
    assert capsys.readouterr().out == out
    assert main([word]) == 2
    assert capsys.readouterr().err == out


def test_a_usage_names_the_options_that_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["modifyvm", "VM", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--memory, " in out
    assert "--vram" not in out
    assert "--vrdp" not in out
    assert main(["usbfilter", "add", "--help"]) == 0
    assert "--target (-t), " in capsys.readouterr().out


def test_vboxmanage_speaks_as_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called("VBoxManage", "", monkeypatch) == 2
    out = capsys.readouterr().out
    assert "usage: VBoxManage modifyvm VM OPTION VALUE" in out
    assert called("VBoxManage", "--help", monkeypatch) == 0
    assert capsys.readouterr().out == out
    assert called("VBoxManage", "frobnicate", monkeypatch) == 2
    assert capsys.readouterr().err == (
        "VBoxManage: error: unknown command 'frobnicate';"
        " 'VBoxManage --help' lists them.\n"
    )
    assert called("VBoxManage", "--nologo modifyvm x --bogus", monkeypatch) == 2
    assert capsys.readouterr().err == (
        "VBoxManage: error: unknown option '--bogus'\n"
        "usage: VBoxManage modifyvm VM OPTION VALUE ...\n"
    )


@pytest.mark.parametrize("word", ["-v", "-V", "--version"])
def test_the_version_that_tools_read(
    word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Vagrant, Packer and docker-machine cut it; 7.0.0 has bugs they know."""
    assert called("VBoxManage", word, monkeypatch) == 0
    said = capsys.readouterr().out
    assert said == f"7.0.2_rusb{__version__}r0\n"
    vagrant = said.split("_")[0].split("r")[0]
    packer = re.split("[^.0-9]", said.strip())[0]
    major, minor = (int(number) for number in said.split(".")[:2])  # docker-machine
    assert vagrant == packer == "7.0.2"
    assert (major, minor) == (7, 0)
    for name in ("rusb", "VBoxHeadless"):
        called(name, word, monkeypatch)
        assert not capsys.readouterr().out.startswith("7")
    assert main([word]) == 0
    assert capsys.readouterr().out == f"rusb {__version__}\n"


def test_codes_that_tools_look_for(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with vbox_home(tmp_path, monkeypatch):
        assert called("VBoxManage", "showvminfo Lab", monkeypatch) == 1
        sentence = "error: could not find a registered machine named 'Lab';"
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(f"VBoxManage: {sentence}")
        code = "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)"
        assert second == code
        assert main(["showvminfo", "Lab"]) == 1
        (first,) = capsys.readouterr().err.splitlines()
        assert first.startswith(f"rusb: {sentence}")
        (tmp_path / "file").touch()  # where nobody can be asked what runs
        with monkeypatch.context() as patch:
            patch.setenv("RUSB_RUNTIME", str(tmp_path / "file" / "run"))
            assert called("VBoxManage", "showvminfo Lab", monkeypatch) == 1
        assert capsys.readouterr().err.splitlines()[-1] == code
        for name in ("Lab", "Other"):
            assert main(["createvm", "--name", name, "--register"]) == 0
        capsys.readouterr()
        assert called("VBoxManage", "modifyvm Lab --name Other", monkeypatch) == 1
        assert "VERR_ALREADY_EXISTS" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["VBoxHeadless", "VBoxVRDP"])
def test_vboxheadless_is_a_command(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(name, "", monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"usage: {name} --startvm ")
    assert called(name, "--bogus", monkeypatch) == 2
    assert f"{name}: error: unknown option '--bogus'" in capsys.readouterr().err


@pytest.mark.parametrize("word", sorted(COMMANDS))
def test_commands_that_are_not_there_say_why(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "Lab", "--anything"]) == 1
    assert capsys.readouterr().err == f"rusb: error: {word}: {COMMANDS[word]}\n"


def test_stopping_a_command_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(words: Sequence[str]) -> int:
        raise KeyboardInterrupt

    def fail(words: Sequence[str]) -> int:
        raise PermissionError(13, "Permission denied", "/vms/\x1b[31m")

    monkeypatch.setitem(lists.COMMANDS, "list", stop)
    monkeypatch.setitem(running.COMMANDS, "headless", fail)
    assert main(["list", "vms"]) == 130
    assert capsys.readouterr().err == ""
    assert main(["headless", "x"]) == 1
    expected = "rusb: error: /vms/[31m: Permission denied\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("words", [["list", "ostypes"], ["plugins"]])
def test_a_closed_pipe_is_no_traceback(words: list[str]) -> None:
    command = [*RUSB, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


FAULTS = """
import resource
from rusb.cli._common import run_async

async def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [b"x" * (1 << 20) for _ in range(3)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

run_async(work())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_memory_that_is_freed_is_kept_and_not_asked_for_again() -> None:
    """Once the blocks have been there, they cost no page fault any more."""
    words = [sys.executable, "-c", FAULTS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 2 * (3 << 20) // resource.getpagesize()


PROGRAM = """
import gc, os, sys
from rusb.cli import main

sys.argv = ["rusb", "version"]
main()
frozen = gc.get_freeze_count()
import numpy
print(len(os.listdir("/proc/self/task")), frozen > 0)

from rusb.cli._common import run_async

async def work():
    print(gc.isenabled(), gc.get_freeze_count() > 0)

print(gc.isenabled())
gc.unfreeze()
run_async(work())

had = "numpy.random" in sys.modules  # numpy 1 has it at once
import rusb.rdp.graphics.scrolling
print(had or "numpy.random" not in sys.modules)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="is about Linux")
def test_a_process_has_no_threads_that_numpy_brings_and_ends_at_once() -> None:
    words = [sys.executable, "-c", PROGRAM]
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    said = done.stdout.splitlines()
    assert said[-4:] == ["1 True", "False", "True True", "True"]


ENDING = """
import asyncio, signal, sys
from rusb.cli._common import run_async, until_signal

async def work(waits, closing):
    try:
        if waits:
            await until_signal(begin(), "here")
        else:
            await begin()
    finally:
        print("ending", flush=True)
        await asyncio.sleep(closing)
        print("ended", flush=True)

async def begin():
    print("begun", flush=True)
    await asyncio.Event().wait()

if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
run_async(work(sys.argv[1] == "waits", 0.5))
"""


PRINTING = """
import time
from rusb.cli._common import run_async

async def work(): ...

run_async(work())
print("begun", flush=True)
time.sleep(60)
"""


def test_what_is_printed_afterwards_can_be_ended() -> None:
    words = [sys.executable, "-c", PRINTING]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def ending(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENDING, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_does_not_wait_for_signals_ends_in_order(number: int) -> None:
    """rusb demo and bench left processes and directories behind."""
    with ending("works", "") as process:
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "ending\nended\n"
    assert process.returncode == 128 + number


@pytest.mark.parametrize(("how", "status"), [("waits", 0), ("works", 129)])
def test_a_terminal_that_closes_sends_sighup_twice(how: str, status: int) -> None:
    """Its shell does, and the system: devices are given back all the same."""
    with ending(how, "") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=30)[0] == "ended\n"
    assert process.returncode == status


@pytest.mark.parametrize(("how", "status"), [("waits", 0), ("works", 143)])
def test_nohup_keeps_sighup_away(how: str, status: int) -> None:
    """``nohup VBoxHeadless -s VM &`` outlives its terminal."""
    with ending(how, "nohup") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "ending\nended\n"
    assert process.returncode == status


def test_ctrl_c_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would warn of a coroutine that was never awaited."""

    async def work() -> None: ...

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_common, "_prime_heap", interrupted)
    found = work()
    with pytest.raises(KeyboardInterrupt):
        _common.run_async(found)
    assert inspect.getcoroutinestate(found) == inspect.CORO_CLOSED


LITTLE = {
    "--help": (
        "argparse",
        "asyncio",
        "dataclasses",
        "difflib",
        "inspect",
        "pathlib",
        "rusb.usb.urb",
        "typing",
    ),
    "list vms": ("argparse", "asyncio", "cryptography", "difflib", "PIL", "ssl")
    + ("json", "logging", "shutil", "textwrap", "typing", "uuid")
    + ("rusb.client", "rusb.rdp", "rusb.server.machine", "rusb.server.state")
    + ("rusb.cli.vbox._refused", "rusb.server.vbox.editor", "rusb.usb.types"),
}
"""What a command does not import: from a hundredth of it to as much as it costs."""

LISTED = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-linux"><Global>
  <MachineRegistry>
    <MachineEntry uuid="{00000000-0000-0000-0000-000000000001}" src="m.vbox"/>
  </MachineRegistry>
</Global></VirtualBox>
"""

FILTER = """<Hardware><USB><DeviceFilters>
  <DeviceFilter name="Drive" active="true" vendorId="0951"/>
</DeviceFilters></USB></Hardware>"""


@pytest.mark.parametrize("words", LITTLE)
def test_short_commands_import_little(words: str, tmp_path: Path) -> None:
    (tmp_path / "VirtualBox.xml").write_text(LISTED)
    (tmp_path / "m.vbox").write_text(MACHINE.replace("<Hardware/>", FILTER))
    code = (
        "import sys; before = set(sys.modules);"
        " from rusb.cli import main; main(sys.argv[1:]);"
        f" print({set(LITTLE[words])} & set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        env=os.environ | {"RUSB_HOME": str(tmp_path), "RUSB_RUNTIME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    *shown, imported = done.stdout.splitlines()
    assert imported == "set()"
    assert words == "--help" or shown == ['"M" {00000000-0000-0000-0000-000000000001}']
