"""A VBoxManage that is warm: each call is a fork of a process that has it all imported.

Tests and tools call VBoxManage hundreds of times; on a slow machine Python's start
would take most of their time. Arguments, directory, environment and the three files are
the caller's.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rusb.cli import main, vbox
from tests.support.rusbserver import CHECKOUT

CLIENT = """#!{python} -IS
import array, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    words = [os.getcwd(), *sys.argv[1:]]
    env = ["%s=%s" % pair for pair in os.environ.items()]
    data = os.fsencode("\\0".join([str(len(words)), *words, *env]))
    files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([b"%10d" % len(data)], files)
    server.sendall(data)
    server.settimeout(120)
    sys.exit(int(server.recv(8) or b"70"))
"""


@contextlib.contextmanager
def warm(folder: Path, name: str = "VBoxManage") -> Iterator[Path]:
    """Put the program into a folder, whose path is short, and serve it."""
    path = folder / "warm.sock"
    program = folder / name
    program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, "-m", "tests.support.lab.warm", str(number), name]
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
        )
        try:
            yield program
        finally:
            process.kill()
            process.wait()


def _serve(listener: socket.socket, name: str) -> None:
    vbox.commands()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what answers
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        size, files, _, _ = socket.recv_fds(connection, 10, 3)
        data = bytearray()
        while len(data) < int(size):
            data += connection.recv(int(size) - len(data))
        process = os.fork()
        if process:
            for file in files:
                os.close(file)
            _, status = os.waitpid(process, 0)
            with contextlib.suppress(OSError):
                connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        count, folder, *rest = os.fsdecode(bytes(data)).split("\0")
        words = rest[: int(count) - 1]
        os.environ.clear()
        os.environ.update(dict(pair.split("=", 1) for pair in rest[len(words) :]))
        os.chdir(folder)
        sys.argv = [name, *words]
        status = 70
        try:
            status = main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
