"""What a server opens: each request has its answer, whatever the backend does."""

import asyncio
import itertools
import logging
from collections.abc import Callable

import pytest

from rusb.client.devices import DeviceCatalog
from rusb.client.events import SessionEvent
from rusb.client.slots import (
    MAX_LINES,
    MAX_REQUESTS_WAITING,
    OPENINGS_AT_ONCE,
    DeviceSlots,
)
from rusb.errors import BackendError, DeviceBusy, DeviceGone
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.text import LineQuota
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire.vrdpusb import VrdpUsbDeviceSide
from tests.support.memory import memory_below
from tests.support.wire.vrdp import message, submit

INFO = DeviceInfo(0, 0x1209, 0x0001, product="Fake")
OPEN, CLOSE, RESET, CONFIGURE, CLAIM, RELEASE, SETTING, HALT, CANCEL = (
    *(0, 1, 2, 3, 4, 5, 6, 9, 10),
)


class Opened(OpenDevice):
    """Answers at once, unless it is told to raise or to wait."""

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend
        self.kept: dict[int, Completion] = {}

    def submit(self, urb: Urb, complete: Completion) -> None:
        self.backend.did("submit")
        if self.backend.keeps:
            self.kept[urb.id] = complete
        else:
            complete(UrbResult(UrbStatus.OK, b"", urb.length))

    def cancel(self, urb_id: int) -> None:
        self.backend.did("cancel")
        self.kept.pop(urb_id)(UrbResult(UrbStatus.CANCELLED))

    async def set_configuration(self, value: int) -> None:
        await self.backend.does("set_configuration")

    async def claim_interface(self, interface: int) -> None:
        await self.backend.does("claim_interface")

    async def release_interface(self, interface: int) -> None:
        await self.backend.does("release_interface")

    async def set_interface(self, interface: int, alternate: int) -> None:
        await self.backend.does("set_interface")

    async def clear_halt(self, endpoint: int) -> None:
        await self.backend.does("clear_halt")

    async def reset(self) -> None:
        await self.backend.does("reset")

    async def aclose(self) -> None:
        for complete in self.kept.values():
            complete(UrbResult(UrbStatus.CANCELLED))
        await self.backend.does("aclose")
        self.backend.users -= 1


class Backend(DeviceBackend):
    """One device. ``faults``: what raises; ``gates``: what waits; ``calls``: all."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.keeps = False
        self.users = 0

    def did(self, what: str) -> None:
        self.calls.append(what)
        if what in self.faults:
            raise self.faults[what]

    async def does(self, what: str) -> None:
        if what in self.gates:
            await self.gates[what].wait()
        self.did(what)

    async def list_devices(self) -> list[LocalDevice]:
        await self.does("list_devices")
        return [LocalDevice("1", INFO)]

    async def open(self, device: LocalDevice) -> OpenDevice:
        await self.does("open")
        if self.users:
            raise DeviceBusy("used twice")
        self.users += 1
        return Opened(self)

    def watch(self, changed: Callable[[], None]) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Bench:
    """A core and slots as a session has them; what the server gets, by handle."""

    def __init__(self, before: "Bench | None" = None) -> None:
        self.backend: Backend = before.backend if before else Backend()
        self.catalog: DeviceCatalog = (
            before.catalog if before else DeviceCatalog([self.backend])
        )
        self.core = VrdpUsbDeviceSide()
        self.happened: list[SessionEvent] = []
        self.holds: list[bool] = []
        self.errors: list[tuple[int, int]] = []  # handle, error
        self.replies: list[bytes] = []
        self._handles = itertools.count(1)
        self.beside: list[bytes] = []
        self.slots = DeviceSlots(
            self.catalog,
            self.core,
            self.flush,
            send_beside=lambda device, message: self.beside.append(message),
            on_full=self.holds.append,
            on_event=self.happened.append,
            server="host",
        )

    @property
    def reports(self) -> list[str]:
        """What a user reads of it."""
        return [str(event) for event in self.happened]

    async def start(self) -> "Bench":
        self.core.channel_opened(1006, "vrdpusb", now=0)
        self.receive(message(12, b"\x03\0\1\0"))
        self.core.announce(await self.catalog.refresh())
        return self

    def flush(self) -> None:
        for event in self.core.events():
            if hasattr(event, "device"):
                self.slots.handle(event)
        for output in self.core.outputs():
            data = output.data  # type: ignore[union-attr]
            if data[4] == 8:
                found = int.from_bytes(data[11:15], "little"), data[10]
                self.errors.append(found)
            elif data[4] != 12:
                self.replies.append(data)

    def receive(self, data: bytes) -> None:
        self.core.receive_data(1006, data, now=0)
        self.flush()

    def ask(self, code: int, arguments: bytes = b"") -> None:
        self.receive(message(code, b"\1\0\0\0" + arguments))

    def read(self, length: int = 64) -> int:
        handle = next(self._handles)
        self.receive(submit(handle, number=1, urb_len=length))
        return handle

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> Bench:
    return await Bench().start()


REQUESTS = {
    "reset": (RESET, b""),
    "set_configuration": (CONFIGURE, b"\1"),
    "claim_interface": (CLAIM, b"\0"),
    "release_interface": (RELEASE, b"\0"),
    "set_interface": (SETTING, b"\0\1"),
    "clear_halt": (HALT, b"\x81"),
}
FAULTS = [
    OSError(28, "No space left on device", "/state/detached"),
    RuntimeError("a bug"),
    DeviceGone("pulled out"),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "where", [*REQUESTS, "open", "submit", "cancel", "aclose", "list_devices"]
)
async def test_whatever_a_backend_raises_each_urb_has_one_answer(
    where: str, error: Exception, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception at every call of the path of a device."""
    bench.backend.faults[where] = error
    handles = []
    bench.backend.keeps = where in ("cancel", "aclose")
    for wave in range(2):
        bench.ask(OPEN)
        for code, arguments in REQUESTS.values():
            bench.ask(code, arguments)
            handles.append(bench.read())
        await bench.settle()
        if where == "cancel":
            bench.receive(message(CANCEL, b"\1\0\0\0" + bytes([handles[-1], 0, 0, 0])))
        if where == "list_devices":
            assert len(await bench.catalog.refresh()) == 1, "hot-plug is dead"
        if wave == 0:
            bench.ask(CLOSE)
            await bench.settle()
            if bench.backend.keeps:
                handles.clear()  # closed: nobody waits for them
    if not bench.backend.keeps:
        assert sorted(h for h, _ in bench.errors) == handles
    async with asyncio.timeout(20):
        await bench.slots.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    said = "\n".join(bench.reports) + caplog.text
    cause = {"OSError": "No space left", "RuntimeError": "a bug"}
    assert cause.get(type(error).__name__, "pulled out") in said or where == "submit"


async def test_a_device_outlives_what_used_it_until_it_is_given_back(
    bench: Bench,
) -> None:
    bench.ask(OPEN)
    await bench.settle()
    (opened,) = bench.catalog.opened.values()
    later = await Bench(bench).start()  # the session before was lost
    later.ask(OPEN)
    handle = later.read()
    await later.settle()
    assert (later.errors, bench.backend.calls.count("open")) == ([(handle, 0)], 1)
    assert list(bench.catalog.opened.values()) == [opened]
    await later.slots.aclose()
    assert (bench.catalog.opened, bench.backend.users) == ({}, 0)
    await bench.slots.aclose()
    assert bench.backend.calls.count("aclose") == 1


async def test_a_device_that_is_gone_is_said_to_be_so_once(bench: Bench) -> None:
    bench.backend.faults["reset"] = DeviceGone("pulled out")
    (info,) = await bench.catalog.refresh()
    bench.ask(OPEN)
    bench.ask(RESET)
    bench.ask(RESET)
    await bench.settle()
    bench.slots.lose(info)  # the list of devices says so, too
    bench.ask(CLOSE)
    await bench.settle()
    later = [r.removeprefix("1209:0001 Fake ") for r in bench.reports]
    assert later == ["is in use by host", "is gone: pulled out"]


async def test_a_refused_opening_names_its_cause(bench: Bench) -> None:
    bench.backend.faults["open"] = OSError(24, "Too many open files")
    bench.ask(OPEN)
    await bench.settle()
    assert bench.reports == ["cannot open 1209:0001 Fake: Too many open files"]
    assert [r[5] for r in bench.replies] == [1]  # refused, at once


async def test_a_urb_that_a_backend_completes_twice_has_one_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: Opened, urb: Urb, complete: Completion) -> None:
        complete(UrbResult(UrbStatus.OK))
        complete(UrbResult(UrbStatus.STALL))
        raise RuntimeError("and a bug")

    monkeypatch.setattr(Opened, "submit", twice)
    bench.ask(OPEN)
    await bench.settle()
    assert bench.errors == []
    bench.read()
    assert bench.errors == [(1, 0)]


async def test_a_device_opened_again_while_it_is_given_back_waits_for_that(
    bench: Bench,
) -> None:
    """C4: it was refused, and stayed so."""
    gate = bench.backend.gates["aclose"] = asyncio.Event()
    bench.ask(OPEN)
    await bench.settle()
    bench.ask(CLOSE)
    await bench.settle()
    bench.ask(OPEN)
    handle = bench.read()
    await bench.settle()
    assert (bench.errors, bench.backend.calls.count("open")) == ([], 1)
    gate.set()
    await bench.settle()
    assert bench.errors == [(handle, 0)]
    assert bench.replies == []
    assert bench.backend.users == 1
    assert [r.removeprefix("1209:0001 Fake ") for r in bench.reports] == [
        "is in use by host",
        "was given back",
        "is in use by host",
    ]
    await bench.slots.aclose()


async def test_what_was_asked_of_the_closed_device_is_not_answered_to_the_next(
    bench: Bench,
) -> None:
    bench.backend.keeps = True
    bench.ask(OPEN)
    await bench.settle()
    bench.receive(submit(7, number=1))
    bench.ask(CLOSE)
    bench.ask(OPEN)
    bench.receive(submit(7, number=1))  # handles are the server's affair
    bench.backend.keeps = False
    await bench.settle()
    assert bench.errors == [(7, 0)]
    await bench.slots.aclose()


@pytest.mark.parametrize(("count", "is_patient"), [(3_000, False), (200, True)])
async def test_a_flood_of_open_and_close_costs_nothing_that_stays(
    count: int, is_patient: bool, bench: Bench
) -> None:
    """B: 305 MB, 113,000 lines, deaf to Ctrl-C."""
    with memory_below(2 << 20):
        for _ in range(count):
            for code in (OPEN, CLOSE):
                bench.ask(code)
                if is_patient:  # each is done before the next one comes
                    await bench.settle()
        assert len(asyncio.all_tasks()) <= 2
        assert len(bench.reports) <= 4 * OPENINGS_AT_ONCE  # and some time went by
    async with asyncio.timeout(20):
        await bench.slots.aclose()
    assert bench.backend.users == 0


async def test_a_flood_of_requests_waits_within_bounds(bench: Bench) -> None:
    bench.backend.gates["reset"] = asyncio.Event()
    bench.ask(OPEN)
    await bench.settle()
    with memory_below(8 << 20):
        for _ in range(6_000):
            bench.ask(RESET)
    handle = bench.read()
    assert bench.errors == [(handle, 2)]  # one more than can wait
    (slot,) = bench.slots._slots.values()
    assert len(slot.queue.waiting) == MAX_REQUESTS_WAITING
    bench.ask(CLOSE)
    bench.backend.gates["reset"].set()
    await bench.slots.aclose()


async def test_a_flood_of_requests_that_fail_fills_no_terminal(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.backend.faults["claim_interface"] = BackendError("no such interface")
    bench.slots._quota = LineQuota(MAX_LINES, 0.0)  # no time goes by
    bench.ask(OPEN)
    for _ in range(500):
        bench.ask(CLAIM, b"\7")
        await bench.settle()
    line = f"{INFO}: a request of host failed: no such interface"
    assert [r.getMessage() for r in caplog.records] == [line] * MAX_LINES
    bench.slots._quota = LineQuota(1, 0.0)  # some time has gone by
    bench.ask(CLAIM, b"\7")
    await bench.settle()
    assert f"{line} ({500 - MAX_LINES} others failed, too)" in caplog.text
    await bench.slots.aclose()


async def test_reading_stops_while_the_server_asks_too_much(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    gate = bench.backend.gates["open"] = asyncio.Event()
    bench.ask(OPEN)
    for _ in range(63):
        bench.read(1 << 20)
    assert bench.holds == []
    bench.read(1 << 20)  # they only wait so far
    assert bench.holds == [True]
    gate.set()
    await bench.settle()
    assert bench.holds == [True, False]
    await bench.slots.aclose()


async def test_a_handle_that_waits_and_is_used_again_is_submitted_once(
    bench: Bench,
) -> None:
    gate = bench.backend.gates["open"] = asyncio.Event()
    bench.ask(OPEN)
    bench.receive(submit(1, number=1))
    bench.receive(submit(1, number=1))
    await bench.settle()
    gate.set()
    await bench.settle()
    assert (bench.backend.calls.count("submit"), bench.errors) == (1, [(1, 0)])
    await bench.slots.aclose()


async def test_an_isochronous_transfer_that_waited_may_be_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opened, "drops", lambda device, urb: urb.length == 8)
    gate = bench.backend.gates["reset"] = asyncio.Event()
    bench.ask(OPEN)
    await bench.settle()
    bench.ask(RESET)
    for length in (8, 16):
        bench.read(length)
    gate.set()
    await bench.settle()
    assert bench.backend.calls.count("submit") == 1
    assert sorted(h for h, _ in bench.errors) == [1, 2]
    bench.read(8)  # it does not wait
    assert bench.backend.calls.count("submit") == 2
    await bench.slots.aclose()


async def test_the_handle_of_a_cancelled_urb_may_be_used_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted of the first is not counted for ever (C14)."""
    monkeypatch.setattr(Opened, "cancel", lambda device, urb_id: None)  # takes long
    bench.backend.keeps = True
    bench.ask(OPEN)
    await bench.settle()
    for _ in range(100):
        bench.receive(submit(1, number=1, urb_len=1 << 20))
        bench.ask(CANCEL, (1).to_bytes(4, "little"))
    assert bench.holds == []
    await bench.slots.aclose()
