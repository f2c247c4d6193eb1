"""The client's end of ``rusbext``, message by message (docs/spec/resume.md 3)."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rusb.aio.link import WireLink
from rusb.aio.protocols import load_protocol
from rusb.client.connection import Connection
from rusb.client.extension import Extension, Ticket
from rusb.rdp import rusbext
from rusb.rdp.rusbext import Feature

CONTROL, WIRE = 1, 2
HELLO = rusbext.Hello(
    rusbext.VERSION, Feature.RESUME, 60_000, 0, bytes(16), bytes(32)
).serialize()


class Unbound(Extension):
    """One whose connection carries nothing."""

    def _bind(self, ticket: Ticket, received: int) -> None:
        pass


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_wire_that_has_begun_goes_on_without_resume(has_begun: bool) -> None:
    protocol = load_protocol("vrdpusb")
    link = WireLink(
        protocol.device_side(),
        send=lambda *message, **how: None,
        flush=lambda: None,
        on_event=lambda event: None,
    )
    sent: list[bytes] = []
    live: list[Ticket] = []

    def send(channel: int, data: bytes, **how: Any) -> None:
        sent.append(data)

    extension = Unbound(
        None, on_live=live.append, on_resume=lambda: None, on_stay=lambda stay: None
    )
    rdp = SimpleNamespace(cookie=None, send_channel=send)
    connection = SimpleNamespace(rdp=rdp, flush=lambda: None)
    extension.connection = cast(Connection, connection)
    extension.opened(CONTROL, rusbext.RUSBEXT)
    extension.may_carry(protocol, link, WIRE, lambda handler: None)
    if has_begun:
        link.received(WIRE, b"NEGOTIATE, say")
        link.finished()
    extension.received(CONTROL, HELLO)
    assert len(sent) == len(live) == (not has_begun)
    link.close()
