"""How connections end, and what is asked of them when they have."""

import pytest

from rusb.errors import LocalProtocolError
from rusb.rdp import events as rdp
from rusb.rdp import mcs
from rusb.rdp.error_info import REASONS, SLOT_IS_TAKEN, explain
from rusb.rdp.gcc import ClientBlocks, ClientCore
from rusb.rdp.graphics.updates import palette_update
from rusb.rdp.info import ClientInfo
from rusb.rdp.security import SecurityFlag, advise, header
from rusb.rdp.share import DataType
from rusb.rdp.x224 import Failure, Protocol
from tests.support.rdp.joined import Joined, clear
from tests.support.rdp.raw import RawClient, RawServer


class Undecided(RawClient):
    """A client whose logon nobody has decided."""

    def __init__(self, early_flags: int = 1) -> None:
        super().__init__()
        core = ClientCore("raw", 800, 600, 16, early_flags=early_flags)
        self.negotiate()
        self.connect(ClientBlocks(core).serialize())
        self.join()
        info = header(SecurityFlag.INFO) + ClientInfo(user="raw").serialize()
        self.server.receive_data(self.io(info))
        self.server.data_to_send()


def test_a_logon_is_accepted_once_and_by_somebody_who_was_asked() -> None:
    raw = RawClient()
    with pytest.raises(LocalProtocolError, match="no logon"):
        raw.server.accept_logon()
    raw = Undecided()
    raw.server.accept_logon()
    assert raw.server.data_to_send()
    with pytest.raises(LocalProtocolError, match="no logon"):
        raw.server.accept_logon()


def test_a_decision_that_comes_when_the_client_has_gone_sends_nothing() -> None:
    for decide in ("accept_logon", "refuse_logon"):
        raw = Undecided()
        raw.feed(mcs.ultimatum(is_by_user=True))
        if decide == "accept_logon":
            raw.server.accept_logon()
        else:
            raw.server.refuse_logon(SLOT_IS_TAKEN)
        assert raw.server.data_to_send() == []


@pytest.mark.parametrize(("early_flags", "is_told"), [(1, True), (0, False)])
def test_a_refusal_is_told_to_who_knows_the_pdu(  # 3.7
    early_flags: int, is_told: bool
) -> None:
    raw = Undecided(early_flags)
    raw.server.refuse_logon(SLOT_IS_TAKEN)
    sent = b"".join(raw.server.data_to_send())
    assert (SLOT_IS_TAKEN.to_bytes(4, "little") in sent) == is_told
    assert bool(sent) == is_told
    assert raw.feed(b"whatever") == b""


def test_what_codes_mean() -> None:
    assert (
        explain(SLOT_IS_TAKEN) == "it serves one client at a time, and one is connected"
    )
    assert explain(5) == REASONS[5]
    assert explain(4711) == "reason 4711"


def test_the_client_knows_the_last_reason() -> None:
    raw = RawServer().until_active()
    assert raw.client.reason is None
    raw.feed(raw.data(DataType.ERROR_INFO, (12).to_bytes(4, "little")))
    assert raw.client.reason == 12


def test_nothing_is_sent_any_more_after_the_end() -> None:
    joined = Joined(*clear()).run()
    joined.client.disconnect()
    joined.run()  # the server takes the goodbye
    assert joined.of_server(rdp.Disconnected)
    joined.client.send_channel(1004, b"late")
    for core in (joined.client, joined.server):
        core.disconnect()
    joined.server.keepalive()
    joined.server.resize(640, 480)
    joined.server.send_update(palette_update())
    assert joined.client.data_to_send() == joined.server.data_to_send() == []


def test_what_comes_behind_a_goodbye_in_one_packet_is_not_looked_at() -> None:
    raw = RawClient().until_active()
    bye = raw.data(DataType.SHUTDOWN_REQUEST, b"")
    raw.feed(bye + raw.data(DataType.INPUT, b"\0"))  # malformed, and too late
    assert isinstance(raw.seen[-1], rdp.Disconnected)


def test_a_persistent_key_list_needs_no_answer() -> None:
    raw = RawClient().until_active()
    raw.seen.clear()
    assert raw.feed(raw.data(DataType.KEY_LIST, bytes(24))) == b""
    assert raw.seen == []


def test_monitors_are_one_screen_each_connection_has() -> None:
    """CS_MONITOR is no block that was skipped for being unknown."""
    blocks = ClientBlocks(ClientCore("raw", 800, 600, 16), cluster=None)
    plain = blocks.serialize()
    monitor = b"\x05\xc0\x08\x00" + bytes(4)
    inside = plain[23:] + monitor
    head = plain[:7]
    tail = plain[9:21] + (0x8000 | len(inside)).to_bytes(2) + inside
    found = ClientBlocks.parse(head + (0x8000 | len(tail)).to_bytes(2) + tail)
    assert (found.others, found.cluster, found.core.width) == ([], None, 800)


def test_a_client_that_wants_nla_alone_is_told_how_to_do_without() -> None:
    advice = advise(Failure.TLS_REQUIRED, Protocol.CREDSSP)
    assert "switch it off in the client (xfreerdp: /sec:tls)" in advice
