"""Whatever fails while a client changes over to the host of its machine (7.11): it ends
up where the machine runs, or stays with the relay; real QEMU, real sockets.

The guest is a BIOS, which reads and configures a keyboard whenever it starts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from rusb.client import follow
from rusb.client.extension import Extension
from rusb.client.redial import Redial
from rusb.errors import ParseError
from rusb.server.client_usb import ClientUsb
from rusb.server.elsewhere import Elsewhere
from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport import handover
from rusb.server.machine.teleport.messages import (
    Client,
    Display,
    Message,
    Take,
    Taken,
)
from rusb.server.remote_devices import RemoteDevices
from rusb.server.server import Server
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Counting,
    Host,
    Plugged,
    Stubborn,
    before,
    move,
    plugged,
    reset,
    state,
    teleport,
    wait_redirs,
    when_sent,
)
from tests.support.whole_path import sessions_of

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


async def check_anew(
    client: Plugged, hosts: tuple[Host, Host], keyboard: Counting, *, redirs: int = 1
) -> None:
    """The client is at the target, where the guest has seen its device anew, and the
    source has ended.

    Args:
        redirs: devices of the guest's; what was relayed has left.
    """
    source, target = hosts
    await until(lambda: "VUSB: Attached" in target.log)
    await reset(TARGET, keyboard)
    await until(lambda: client.session.is_connected)
    await until(lambda: "no longer keeps the devices" in client.said())
    await wait_redirs(target, redirs)
    await source.wait_ended()


async def check_moved(
    client: Plugged, hosts: tuple[Host, Host], *used: Counting
) -> None:
    """The client is at the target, whose guest has noticed nothing."""
    source, target = hosts
    await until(lambda: target.log.count("Remote USB: resumed after") > 0)
    await reset(TARGET, *used)
    await until(lambda: client.session.is_connected)
    assert "Detached" not in source.log + target.log


async def test_a_client_that_is_not_quiet_in_time_stays(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "RECALL_SECONDS", 0.2)
    monkeypatch.setattr(follow, "MOVE_SECONDS", 0.5)
    keyboard = Stubborn()
    async with plugged(source, keyboard) as client:
        await until(lambda: keyboard.reads)
        await move(target.port)
        await until(lambda: "stays: it was not quiet within 0.2 s" in source.log)
        await until(lambda: "were not moved in time" in client.said())
        await reset(TARGET, keyboard)  # by relay
        assert (await state(SOURCE)).state == "teleported"
        assert client.session.is_connected
        assert "VUSB: Attached" not in target.log
        assert "Detached" not in source.log
    await source.wait_ended()


async def test_a_target_that_cannot_take_a_client_says_so(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: object) -> object:
        raise ParseError("a client in form 1, not 2\x1b")

    monkeypatch.setattr(handover, "from_json", refuse)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_anew(client, (source, target), keyboard)
        why = "the target cannot take it: a client in form 1, not 2"
        await until(lambda: f"a client starts over: {why}" in source.log)
        await until(lambda: "starts over: a client in form 1" in target.log)
        assert "\x1b" not in source.log


async def test_a_target_whose_display_is_switched_off_meanwhile_takes_no_client(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def switch_off() -> None:
        (came,) = target._came
        came._server = None

    when_sent(monkeypatch, Client, switch_off)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_anew(client, (source, target), keyboard)
        await until(lambda: "no remote USB is served here" in source.log)


async def test_a_target_that_does_not_answer_is_not_waited_for(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ponder(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(handover.Takeover, "_arrive", ponder)
    monkeypatch.setattr(handover, "TAKEN_SECONDS", 0.3)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_anew(client, (source, target), keyboard, redirs=2)
        await until(lambda: "a client starts over: " in source.log)
        await until(lambda: "no answer within 0.3 s" in source.log)


@pytest.mark.parametrize("kind", [Take, Client])
async def test_a_link_between_the_hosts_that_breaks_meanwhile(
    kind: type[Message],
    source: Host,
    target: Host,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state has not come: the client begins anew where the machine is."""
    when_sent(monkeypatch, kind, wire.cut)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(wire.port))["error"] == ""
        await check_anew(client, (source, target), keyboard)
        await until(lambda: "a client starts over: " in source.log)


async def test_a_link_between_the_hosts_that_breaks_before_ready(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, Extension, "answer_move", wire.cut)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(wire.port))["error"] == ""
        await check_anew(client, (source, target), keyboard)


async def test_a_target_that_has_the_client_and_is_not_heard(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is at the target, so the guest keeps it."""
    when_sent(monkeypatch, Taken, wire.cut)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(wire.port))["error"] == ""
        await until(lambda: "Remote USB: resumed after" in target.log)
        await reset(TARGET, keyboard)
        assert client.session.is_connected
        assert "Detached" not in target.log
        await source.wait_ended()


@pytest.fixture
async def far(target: Host, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """Between the client and the target's remote display."""
    find = RunningMachine._display
    async with Wire(0).up() as found:

        def over_it(machine: RunningMachine) -> Display:
            display = find(machine)
            found.far = display.port
            return replace(display, port=found.port)

        monkeypatch.setattr(RunningMachine, "_display", over_it)
        yield found


@pytest.mark.parametrize("when", ["before MOVED", "at MOVED"])
async def test_a_client_that_loses_the_target_dials_it_again(
    when: str,
    source: Host,
    target: Host,
    far: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if when == "before MOVED":
        when_sent(monkeypatch, Take, far.cut)
    else:
        before(monkeypatch, Redial, "go_to", far.cut)
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with plugged(source, *keyboards) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_moved(client, (source, target), *keyboards)
        await source.wait_ended()


async def test_a_client_that_loses_the_target_later_comes_back(
    source: Host, target: Host, far: Wire
) -> None:
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_moved(client, (source, target), keyboard)
        await source.wait_ended()
        far.cut()
        await until(lambda: target.log.count("Remote USB: resumed after") == 2)
        await check_moved(client, (source, target), keyboard)


@pytest.mark.parametrize("kind", [Take, Client])
async def test_a_client_that_loses_the_source_meanwhile_goes_to_the_target(
    kind: type[Message], source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it has, if that was sent already."""
    keyboard = Counting()
    async with Wire((await state(SOURCE)).display.port).up() as near:
        when_sent(monkeypatch, kind, near.cut)
        async with plugged(source, keyboard, port=near.port) as client:
            assert (await teleport(target.port))["error"] == ""
            await until(lambda: "there is no such session" in source.log)
            if kind is Client:
                await check_moved(client, (source, target), keyboard)
                await source.wait_ended()
            else:
                await check_anew(client, (source, target), keyboard)
            assert "Remote USB: client 1 was given up" not in source.log


async def test_a_client_whose_state_is_on_its_way_cannot_go_on_here(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard = Counting()
    async with Wire((await state(SOURCE)).display.port).up() as near:

        def lose() -> None:
            wire.hold_answers()  # TAKEN does not come
            near.cut()

        when_sent(monkeypatch, Client, lose)
        async with plugged(source, keyboard, port=near.port) as client:
            assert (await teleport(wire.port))["error"] == ""
            await until(lambda: "there is no such session" in source.log)
            wire.let_go()
            await check_moved(client, (source, target), keyboard)
            await source.wait_ended()


async def test_a_client_that_is_waited_for_once_recalled_begins_anew(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection broke before the source took no more of its messages."""
    send = handover.Handover._send
    keyboard = Counting()
    async with Wire((await state(SOURCE)).display.port).up() as near:

        async def lose(
            of: handover.Handover, client: ClientUsb, numbers: list[int]
        ) -> None:
            near.is_down = True
            near.cut()
            await until(lambda: "Remote USB: link lost" in source.log)
            await send(of, client, numbers)

        leave, left = ClientUsb.leave, list[object]()

        def spy(client: ClientUsb, to: Elsewhere) -> None:
            leave(client, to)
            assert source._server is not None
            left.append(list(source._server._sessions))

        monkeypatch.setattr(ClientUsb, "leave", spy)
        monkeypatch.setattr(handover.Handover, "_send", lose)
        async with plugged(source, keyboard, port=near.port) as client:
            assert (await teleport(target.port))["error"] == ""
            await until(lambda: "starts over: the client has gone" in source.log)
            await check_anew(client, (source, target), keyboard)
    assert left == [[]]  # nobody waits for it there


async def test_a_source_that_ends_meanwhile_hands_its_client_over_first(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = []

    def end() -> None:
        ending.append(asyncio.ensure_future(source._teleport.aclose()))

    before(monkeypatch, ClientUsb, "gather", end)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await check_moved(client, (source, target), keyboard)
        await asyncio.gather(*ending)


async def test_a_source_that_ends_waits_for_the_answer_of_the_target(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, closing = [], asyncio.Event()

    def end() -> None:
        wire.hold_answers()
        ending.append(asyncio.ensure_future(source._teleport.aclose()))

    when_sent(monkeypatch, Client, end)
    before(monkeypatch, handover.Handover, "aclose", closing.set)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        assert (await teleport(wire.port))["error"] == ""
        await closing.wait()
        wire.let_go()
        await check_moved(client, (source, target), keyboard)
        await asyncio.gather(*ending)
        assert "this host ends" not in source.log


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What only a bug explains."""
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_client_that_is_gone_while_its_devices_are_recalled_comes_back(
    source: Host,
    target: Host,
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
    when: str,
) -> None:
    """It has not changed over, and the guest is served as before."""
    keyboard = Stubborn()
    recalled = asyncio.Event()
    recall = ClientUsb.recall

    async def spy(client: ClientUsb, seconds: float) -> bool:
        try:
            return await recall(client, seconds)
        finally:
            recalled.set()

    monkeypatch.setattr(ClientUsb, "recall", spy)
    async with Wire((await state(SOURCE)).display.port).up() as near:
        if when == "before":
            before(monkeypatch, RemoteDevices, "recall", near.cut)
        else:  # then nothing comes back in time
            monkeypatch.setattr(handover, "RECALL_SECONDS", 1.0)
            before(monkeypatch, RemoteDevices, "is_back", near.cut)
        async with plugged(source, keyboard, port=near.port) as client:
            await until(lambda: keyboard.reads)
            assert (await teleport(target.port))["error"] == ""
            await until(lambda: "Remote USB: resumed after" in source.log)
            await recalled.wait()
            await reset(TARGET, keyboard)
            assert client.session.is_connected
            assert "VUSB: Attached" not in target.log
            assert "Detached" not in source.log
    await source.wait_ended()
    assert not errors()


async def test_a_client_that_comes_back_later_changes_over_then(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard, invited = Counting(), asyncio.Event()
    before(monkeypatch, Server, "invite", invited.set)
    async with Wire((await state(SOURCE)).display.port).up() as near:
        async with plugged(source, keyboard, port=near.port) as client:
            near.is_down = True
            near.cut()
            assert (await teleport(target.port))["error"] == ""
            await invited.wait()
            near.is_down = False
            await check_moved(client, (source, target), keyboard)
    await source.wait_ended()


@pytest.mark.parametrize("kind", [Take, Client])
async def test_a_client_that_is_dropped_while_it_changes_over_goes_to_the_target(
    kind: type[Message],
    source: Host,
    target: Host,
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
) -> None:
    """As when it breaks the protocol: nothing here is waited for any more."""

    def drop() -> None:
        assert source._server is not None
        for session in sessions_of(source._server):
            session.drop("it broke a rule")

    keyboard = Counting()
    when_sent(monkeypatch, kind, drop)
    async with plugged(source, keyboard) as client:
        assert (await teleport(target.port))["error"] == ""
        await until(lambda: "VUSB: Attached" in target.log)
        await reset(TARGET, keyboard)
        await until(lambda: client.session.is_connected)
        await source.wait_ended()
    assert not errors()
