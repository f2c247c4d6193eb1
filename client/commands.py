"""Storage commands that a server has us run: one after the other, one outcome each.

See docs/spec/storage.md, 6. It is sans-IO; :mod:`.slots` joins it to a device.
"""

from collections import deque
from collections.abc import Callable

from rusb.usb.bulk_only import Command, Status
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire._commands import MAX_DATA, CommandResult, RunCommand, Stage

__all__ = ["CommandRunner"]

MAX_WAITING = 64
"""Commands of one device that wait; a server that asks for more has some refused."""

MAX_WAITING_DATA = 16 << 20
"""Bytes of their data stages."""


_CANCELLED = UrbResult(UrbStatus.CANCELLED)


class CommandRunner:
    """Runs the commands for one device.

    After one that failed nothing is run but what was asked for by a server that knows
    of it: what the device has to say about the failure stays there until then.

    Args:
        submit: starts a transfer of the type, endpoint, length and data given.
        cancel: aborts the transfer that runs.
        clear_halt: clears a halted endpoint and then calls what it was given.
        answer: gets each outcome.
    """

    def __init__(
        self,
        *,
        submit: Callable[[int, int, bytes, Completion], None],
        cancel: Callable[[], None],
        clear_halt: Callable[[int, Callable[[], None]], None],
        answer: Callable[[CommandResult], None],
    ) -> None:
        self._submit = submit
        self._cancel = cancel
        self._clear_halt = clear_halt
        self._answer = answer
        self._waiting: deque[tuple[RunCommand, Command]] = deque()
        self._bytes = 0
        self._running: tuple[RunCommand, Command] | None = None
        self._has_failed = False
        self._is_aborted = False
        self._data: bytes | memoryview = b""

    def run(self, request: RunCommand) -> None:
        """Take a command; its outcome is answered once, perhaps at once."""
        if request.is_first and self._running is None:
            self._has_failed = False
        command = _readable(request)
        if (
            command is None
            or self._has_failed
            or len(self._waiting) >= MAX_WAITING
            or self._bytes + command.length > MAX_WAITING_DATA
        ):
            self._refuse(request)
            return
        self._waiting.append((request, command))
        self._bytes += command.length
        self._go_on()

    def cancel(self, *, is_abort: bool) -> None:
        """Begin nothing of what waits; *is_abort*: end what runs, too."""
        waiting, self._waiting, self._bytes = self._waiting, deque(), 0
        for request, _ in waiting:
            self._refuse(request)
        if is_abort and self._running is not None:
            self._is_aborted = True
            self._cancel()

    def _refuse(self, request: RunCommand) -> None:
        device, handle = request.device, request.handle
        self._answer(CommandResult(device, handle, Stage.NOT_BEGUN))

    def _go_on(self) -> None:
        if self._running is None and self._waiting:
            self._running = request, command = self._waiting.popleft()
            self._bytes -= command.length
            self._data, self._is_aborted = b"", False
            wrapper = request.wrapper
            self._submit(request.outgoing, len(wrapper), wrapper, self._taken)

    def _taken(self, result: UrbResult) -> None:
        """The device has, or has not, taken the command."""
        assert self._running is not None
        request, command = self._running
        if (result.status, result.length) != (UrbStatus.OK, Command.SIZE):
            self._end(Stage.COMMAND, result)
        elif self._is_aborted:
            self._end(Stage.DATA, _CANCELLED)
        elif command.length:
            self._submit(request.incoming, command.length, b"", self._moved)
        else:
            self._ask_status()

    def _moved(self, result: UrbResult) -> None:
        """The data stage is over; one that stalled has a status, too (BOT 6.7.2)."""
        assert self._running is not None
        self._data = result.data
        if result.status is UrbStatus.STALL:
            self._clear_halt(self._running[0].incoming, self._ask_status)
        elif result.status is UrbStatus.OK:
            self._ask_status()
        else:
            self._end(Stage.DATA, result)

    def _ask_status(self) -> None:
        assert self._running is not None
        if self._is_aborted:
            self._end(Stage.STATUS, _CANCELLED)
        else:
            self._submit(self._running[0].incoming, Status.SIZE, b"", self._ended)

    def _ended(self, result: UrbResult) -> None:
        is_status = Status.of(result) is not None
        self._end(Stage.DONE if is_status else Stage.STATUS, result)

    def _end(self, stage: Stage, result: UrbResult) -> None:
        assert self._running is not None
        request, self._running = self._running[0], None
        data, self._data = self._data, b""
        status = bytes(result.data) if stage is Stage.DONE else bytes(Status.SIZE)
        outcome = CommandResult(
            *(request.device, request.handle, stage, int(result.status)),
            *(len(data), status, data),
        )
        self._answer(outcome)
        if stage is not Stage.DONE or status[-1]:
            self._has_failed = True
            self.cancel(is_abort=False)
        else:
            self._go_on()


def _readable(request: RunCommand) -> Command | None:
    """Return what a command moves; None: not what this is for."""
    urb = Urb(0, TransferType.BULK, request.outgoing, Command.SIZE, request.wrapper)
    command = Command.of(urb)
    if command is None or command.length > MAX_DATA:
        return None
    if not command.is_in and command.length:
        return None
    is_right = request.incoming & 0x80 and not request.outgoing & 0x80
    return command if is_right else None
