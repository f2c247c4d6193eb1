"""Peers made of bytes, from the vectors where there is one."""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import RemoteProtocolError
from rusb.rdp import mcs, share
from rusb.rdp.capabilities import (
    client_sets,
    serialize_confirm_active,
    serialize_demand_active,
    server_sets,
)
from rusb.rdp.client import ClientConnection, ClientSettings
from rusb.rdp.connection import Connection
from rusb.rdp.events import Activated, Event, LogonRequested
from rusb.rdp.gcc import ClientBlocks, ClientCore, ServerBlocks
from rusb.rdp.info import ClientInfo
from rusb.rdp.licensing import VALID_CLIENT
from rusb.rdp.security import Method, SecurityFlag, header
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.rdp.share import DataType, ShareType
from rusb.rdp.svc import ChannelSender
from rusb.rdp.x224 import ConnectionConfirm, ConnectionRequest
from tests.support.rdp.joined import no_random

__all__ = ["RawClient", "RawServer", "group", "vector"]

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "rdp-security.json").read_text("utf-8")
)


def group(name: str) -> Any:
    """Return a group of vectors, without its envelope."""
    found = VECTORS[name]
    return found["vectors"] if isinstance(found, dict) and "vectors" in found else found


def vector(name: str, identity: str, key: str) -> bytes:
    """Return bytes of one vector."""
    (found,) = (v for v in group(name) if v["id"] == identity)
    return bytes.fromhex(found[key])


class RawClient:
    """A server core, and a client of which every byte can be chosen.

    Args:
        headers: in front of every payload after Client Info.
    """

    USER = mcs.USER_BASE + 1

    def __init__(
        self, settings: ServerSettings | None = None, *, headers: bytes = b""
    ) -> None:
        both = frozenset({Method.TLS, Method.RDP})
        self.server = ServerConnection(
            settings or ServerSettings(both), random_bytes=no_random
        )
        self.core: Connection = self.server
        self.headers = headers
        self.sender = ChannelSender(is_server=False, initiator=1)
        self.seen: list[Event] = []

    def feed(self, *packets: bytes) -> bytes:
        """Send packets; return what the server answers."""
        for packet in packets:
            self.server.receive_data(packet)
            for event in self.server.events():
                self.seen.append(event)
                if isinstance(event, LogonRequested):
                    self.server.accept_logon()
        return b"".join(self.server.data_to_send())

    def io(self, payload: bytes) -> bytes:
        """Return a packet with a payload on the I/O channel."""
        head = self.sender.send_data(mcs.IO_CHANNEL, len(payload))
        return head + payload

    def data(self, kind: int, body: bytes) -> bytes:
        """Return a packet with a share data PDU."""
        return self.io(self.headers + share.share_data(kind, body, self.USER))

    def negotiate(self, request: bytes | None = None) -> bytes:
        """Ask for standard security."""
        return self.feed(request or ConnectionRequest(protocols=0).serialize())

    def connect(self, user_data: bytes | None = None) -> bytes:
        """Send Connect-Initial."""
        blocks = user_data or ClientBlocks(ClientCore("raw", 800, 600, 16)).serialize()
        return self.feed(mcs.serialize_connect_initial(blocks))

    def join(self, channels: Sequence[int] = (1002, 1003)) -> bytes:
        """Send what comes between Connect-Response and Client Info."""
        joins = [mcs.join_request(1, channel) for channel in channels]
        return self.feed(mcs.erect_domain(), mcs.attach_request(), *joins)

    def log_on(self, info: bytes | None = None) -> bytes:
        """Send Client Info."""
        body = ClientInfo(user="raw").serialize() if info is None else info
        return self.feed(self.io(header(SecurityFlag.INFO) + body))

    def confirm(self, sets: Sequence[bytes] | None = None, count: int = -1) -> bytes:
        """Send Confirm Active; *count* replaces the number of sets."""
        if sets is None:
            sets = client_sets(800, 600, 16, keyboard_layout=0, is_rdp4=False)
        body = serialize_confirm_active(share.SHARE_ID, sets)
        if count >= 0:
            body = body[:16] + struct.pack("<H", count) + body[18:]
        pdu = share.share_control(ShareType.CONFIRM_ACTIVE, body, self.USER)
        return self.feed(self.io(self.headers + pdu))

    def finish(self) -> bytes:
        """Send the rest of the finalisation."""
        return self.feed(
            self.data(DataType.SYNCHRONIZE, share.synchronize(1002)),
            self.data(DataType.CONTROL, share.control(4)),
            self.data(DataType.CONTROL, share.control(1)),
            self.data(DataType.FONT_LIST, share.font_list(3)),
        )

    def until_active(self) -> "RawClient":
        """Go the whole way."""
        self.negotiate()
        self.connect()
        self.join()
        self.log_on()
        self.confirm()
        self.finish()
        return self


class RawServer:
    """Our client, and a server of which every byte can be chosen."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self.client = ClientConnection(
            settings or ClientSettings(wants_tls=False, encryption=False),
            random_bytes=no_random,
        )
        self.core: Connection = self.client
        self.client.start()
        self.client.data_to_send()
        self.sender = ChannelSender(is_server=True, initiator=1)
        self.seen: list[Event] = []

    def feed(self, *packets: bytes) -> bytes:
        """Send packets; return what the client answers."""
        for packet in packets:
            self.client.receive_data(packet)
            self.seen += self.client.events()
        return b"".join(self.client.data_to_send())

    def io(self, payload: bytes) -> bytes:
        """Return a packet with a payload on the I/O channel."""
        return self.sender.send_data(1003, len(payload)) + payload

    def data(self, kind: int, body: bytes) -> bytes:
        """Return a packet with a share data PDU."""
        return self.io(share.share_data(kind, body, 1002))

    def connect(self, user_data: bytes | None = None) -> bytes:
        """Choose standard security and send Connect-Response."""
        blocks = user_data or ServerBlocks.granting(0, 4).serialize()
        self.feed(ConnectionConfirm(selected=0).serialize())
        return self.feed(mcs.serialize_connect_response(blocks))

    def until_licence(self, user_data: bytes | None = None) -> "RawServer":
        """Go on until the client has sent Client Info."""
        self.connect(user_data)
        self.feed(mcs.attach_confirm(9))
        channels = (1010, 1003, 1004, 1005, 1006, 1007)
        self.feed(*[mcs.join_confirm(9, channel) for channel in channels])
        assert self.client.is_logged_on
        return self

    def demand(
        self,
        sets: Sequence[bytes] | None = None,
        *,
        count: int = -1,
        headers: bytes = b"",
    ) -> bytes:
        """Return a packet with Demand Active; *count* replaces the number of sets."""
        if sets is None:
            sets = server_sets(1024, 768, 24)
        body = serialize_demand_active(0x103EA, sets)
        if count >= 0:
            body = body[:12] + struct.pack("<H", count) + body[14:]
        pdu = share.share_control(ShareType.DEMAND_ACTIVE, body, 1002)
        return self.io(headers + pdu)

    def until_active(self) -> "RawServer":
        """Go the whole way."""
        self.until_licence()
        self.feed(self.io(struct.pack("<HH", 0x80, 0) + VALID_CLIENT))
        self.feed(self.demand(), self.data(DataType.FONT_MAP, share.font_map()))
        assert Activated(1024, 768, 24) in self.seen
        return self


def in_clear(blocks: bytes) -> bytes:
    """What ``-e`` changes: CS_SECURITY with methods 0 instead of 3."""
    changed = blocks.replace(b"\x02\xc0\x0c\0\x03", b"\x02\xc0\x0c\0\0")
    assert changed != blocks
    return changed


def refuse(action: Callable[[], object]) -> None:
    with pytest.raises(RemoteProtocolError):
        action()


def capability(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(body)) + body
