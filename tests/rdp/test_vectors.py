"""The vectors of docs/spec/vrdp-server.md, section 9, in both directions."""

from pathlib import Path
from typing import Any

import pytest

from rusb.errors import SettingsError
from rusb.rdp import mcs, share
from rusb.rdp.client import ClientConnection
from rusb.rdp.events import Disconnected
from rusb.rdp.gcc import ClientBlocks, ServerBlocks
from rusb.rdp.info import ClientInfo, split_screen
from rusb.rdp.licensing import VALID_CLIENT
from rusb.rdp.security import Method, select_protocol
from rusb.rdp.share import ShareData, ShareType, split_share
from rusb.rdp.x224 import ConnectionConfirm, ConnectionRequest, Failure, Protocol
from rusb.server.vbox.ports import check_ports, parse_ports
from tests.support.rdp.joined import Joined
from tests.support.rdp.raw import VECTORS, RawClient, group, vector
from tests.support.rows import each_row

# ------------------------------------------------------------------ X.224 ----

REQUESTS = [
    ("ms-4.1.1-connection-request", b"Cookie: mstshash=eltons", 0),
    ("rdesktop-cr-v5", b"Cookie: mstshash=john", 1),
    ("rdesktop-cr-v4", b"Cookie: mstshash=john", None),
    ("cr-minimal", b"", None),
]
CONFIRMS = [
    ("vrdp-cc-no-neg", None, None),
    ("vrdp-cc-selected-rdp", 0, None),
    ("vrdp-cc-selected-tls", 1, None),
    ("vrdp-cc-failure-ssl-required", None, 1),
    ("vrdp-cc-failure-ssl-not-allowed", None, 2),
    ("vrdp-cc-failure-ssl-cert-not-on-server", None, 3),
]


def test_every_x224_vector_is_used() -> None:
    used = {name for name, *_ in (*REQUESTS, *CONFIRMS)} | {
        "ms-4.1.2-connection-confirm"
    }
    assert used == {v["id"] for v in group("x224")}


@pytest.mark.parametrize(("name", "cookie", "protocols"), REQUESTS)
def test_connection_requests(name: str, cookie: bytes, protocols: int | None) -> None:
    wire = vector("x224", name, "bytes")
    request = ConnectionRequest(cookie, protocols)
    assert ConnectionRequest.parse(wire[4:]) == request
    assert request.serialize() == wire


@pytest.mark.parametrize(("name", "selected", "failure"), CONFIRMS)
def test_connection_confirms(
    name: str, selected: int | None, failure: int | None
) -> None:
    wire = vector("x224", name, "bytes")
    confirm = ConnectionConfirm(selected, failure)
    assert ConnectionConfirm.parse(wire[4:]) == confirm
    assert confirm.serialize() == wire


def test_the_confirm_of_a_windows_server() -> None:
    wire = vector("x224", "ms-4.1.2-connection-confirm", "bytes")
    assert ConnectionConfirm.parse(wire[4:]) == ConnectionConfirm(selected=0)


@each_row("case", group("security_selection"))
def test_the_choice_of_security(case: dict[str, Any]) -> None:
    methods = {
        "RDP": frozenset({Method.RDP}),
        "TLS": frozenset({Method.TLS}),
        "NEGOTIATE": frozenset(Method),
    }[case["security_method"]]
    requested = case["requested_protocols"] if case["neg_req_present"] else None
    choice = select_protocol(
        methods, has_certificate=case["certificate_usable"], requested=requested
    )
    is_failure = isinstance(choice, Failure)
    text = f"failure {choice.value}" if is_failure else choice.name
    wanted = case["result"]
    if (case["security_method"], requested) == ("RDP", Protocol.CREDSSP):
        # the vector has the original's 1, which says that TLS would help; CredSSP is
        # TLS, which is not allowed (MS-RDPBCGR 2.2.1.2.2)
        wanted = "failure 2"
    assert text == wanted


# -------------------------------------------------------------------- GCC ----


def blocks(wire: bytes) -> bytes:
    """Wrap a single server block, SC_NET added, as a client would get it."""
    network = b"" if wire[:2] == b"\x03\x0c" else ServerBlocks().serialize_network()
    found = network + wire
    return ServerBlocks().serialize()[:21] + (0x8000 | len(found)).to_bytes(2) + found


@pytest.mark.parametrize(
    ("name", "requested"), [("sc-core-no-neg", None), ("sc-core-neg-tls", 3)]
)
def test_server_core(name: str, requested: int | None) -> None:
    wire = vector("gcc_and_connect_response", name, "bytes")
    assert ServerBlocks(requested).serialize_core() == wire
    assert ServerBlocks.parse(blocks(wire)).requested == requested


@pytest.mark.parametrize(("name", "count"), [("sc-net-3", 3), ("sc-net-4", 4)])
def test_server_network(name: str, count: int) -> None:
    wire = vector("gcc_and_connect_response", name, "bytes")
    granted = ServerBlocks.granting(None, count)
    assert granted.serialize_network() == wire
    assert list(ServerBlocks.parse(blocks(wire)).channels) == list(granted.channels)


def test_server_network_without_channels_may_be_padded_but_ours_is_not() -> None:
    wire = vector("gcc_and_connect_response", "sc-net-0", "bytes")
    assert ServerBlocks.parse(blocks(wire)).channels == []
    assert ServerBlocks().serialize_network().hex() == "030c0800eb030000"  # B.1


@pytest.mark.parametrize(
    ("name", "security", "method"),
    [("sc-security-none", bytes(8).hex(), 0), ("sc-security-128", None, 2)],
)
def test_server_security(name: str, security: str | None, method: int) -> None:
    wire = vector("gcc_and_connect_response", name, "bytes")
    parsed = ServerBlocks.parse(blocks(wire))
    assert (parsed.method, parsed.level) == (method, method)
    assert parsed.security.hex() == (wire[12:].hex() if security is None else security)


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("connect-response-none-3ch-neg", 1),
        ("connect-response-128-3ch", None),
        ("connect-response-ms-4.1.4-shape", 0),
    ],
)
def test_connect_response(name: str, requested: int | None) -> None:
    wire = vector("gcc_and_connect_response", name, "bytes")
    user_data = mcs.parse_connect_response(wire[7:])
    parsed = ServerBlocks.parse(user_data)
    assert parsed.requested == requested
    assert list(parsed.channels) == [1004, 1005, 1006]
    assert parsed.io_channel == 1003
    assert parsed.serialize() == user_data
    assert mcs.serialize_connect_response(user_data) == wire


CLIENTS = [
    ("gcc-request-r-usb-standard", 3, 0, True),
    ("gcc-request-v4", 3, 0, False),
    ("gcc-request-tls", 0, 1, True),
]


@pytest.mark.parametrize(("name", "methods", "selected", "has_network"), CLIENTS)
def test_rdesktop_blocks(
    name: str, methods: int, selected: int, has_network: bool
) -> None:
    wire = vector("client_rdesktop_vrdp", name, "user_data")
    parsed = ClientBlocks.parse(wire)
    assert parsed.serialize() == wire
    assert (parsed.methods, parsed.cluster) == (methods, 9)
    assert (parsed.core.selected, parsed.core.size) == (selected, 216)
    assert (parsed.core.name, parsed.core.build) == ("myhost", 2600)
    assert (parsed.core.width, parsed.core.height, parsed.core.depth) == (800, 600, 16)
    assert parsed.has_network is has_network
    names = [channel.name for channel in parsed.channels]
    wanted = ["cliprdr", "rdpsnd", "snddbg", "vrdpusb", "rdpdr"] if has_network else []
    assert names == [n for n in wanted if methods or n != "vrdpusb"]
    assert parsed.core.version == (0x00080004 if has_network else 0x00080001)


def test_rdesktop_client_info() -> None:
    wire = vector("client_rdesktop_vrdp", "client-info-v5", "info_packet")
    parsed = ClientInfo.parse(wire)
    assert (parsed.user, parsed.password, parsed.domain) == ("john", "secret", "@2")
    assert (parsed.flags, parsed.address) == (0x13B, "192.0.2.10")
    assert parsed.is_rdesktop(2600)
    parsed.performance = 0x27  # servers do not read it
    assert parsed.serialize() == wire


# -------------------------------------------------------------------- MCS ----


def test_every_mcs_vector_is_used() -> None:
    used = {
        "ms-4.1.5-erect-domain": mcs.erect_domain(),
        "ms-4.1.6-attach-user-request": mcs.attach_request(),
        "ms-4.1.7-attach-user-confirm": mcs.attach_confirm(6),
        "ms-4.1.8-channel-join-request": mcs.join_request(6, 1007),
        "ms-4.1.8-channel-join-confirm": mcs.join_confirm(6, 1007),
        "vrdp-attach-user-confirm": mcs.attach_confirm(1),
        "vrdp-channel-join-confirm-1003": mcs.join_confirm(1, 1003),
        "vrdp-disconnect-provider-ultimatum": mcs.ultimatum(is_by_user=False),
        "common-disconnect-provider-ultimatum": mcs.ultimatum(is_by_user=True),
    }
    wires = {v["id"]: bytes.fromhex(v["bytes"]) for v in group("mcs_pdus")}
    del wires["rdesktop-erect-domain"]  # only read, see below
    assert used == wires


@pytest.mark.parametrize(
    ("name", "confirm"),
    [
        ("ms-4.1.7-attach-user-confirm", mcs.Confirm(0, 6, None)),
        ("ms-4.1.8-channel-join-confirm", mcs.Confirm(0, 6, 1007)),
        ("vrdp-attach-user-confirm", mcs.Confirm(0, 1, None)),
        ("vrdp-channel-join-confirm-1003", mcs.Confirm(0, 1, 1003)),
    ],
)
def test_mcs_confirms(name: str, confirm: mcs.Confirm) -> None:
    assert mcs.Confirm.parse(vector("mcs_pdus", name, "bytes")[7:]) == confirm


def test_the_server_answers_the_requests_of_the_vectors() -> None:
    raw = RawClient()
    raw.negotiate()
    raw.connect()
    for name in ("ms-4.1.5-erect-domain", "rdesktop-erect-domain"):
        assert raw.feed(vector("mcs_pdus", name, "bytes")) == b""
    answer = raw.feed(vector("mcs_pdus", "ms-4.1.6-attach-user-request", "bytes"))
    assert answer == vector("mcs_pdus", "vrdp-attach-user-confirm", "bytes")
    answer = raw.feed(vector("mcs_pdus", "ms-4.1.8-channel-join-request", "bytes"))
    assert answer == mcs.join_confirm(1, 1007)


@pytest.mark.parametrize(
    "name",
    ["vrdp-disconnect-provider-ultimatum", "common-disconnect-provider-ultimatum"],
)
def test_an_ultimatum_ends_either_side(name: str) -> None:
    wire = vector("mcs_pdus", name, "bytes")
    joined = Joined().run()
    joined.client.receive_data(wire)
    joined.server.receive_data(wire)
    ends = [Disconnected(None, clean=True)]
    assert (joined.client.events(), joined.server.events()) == (ends, ends)


# ------------------------------------------------------ licence, goodbye ----


def client_waiting_for_licence() -> ClientConnection:
    joined = Joined()
    while not joined.client.is_logged_on:
        joined.step()
    joined.client.data_to_send()
    return joined.client


LICENCES = ["vrdp-licence-valid-client", "recommended-licence-valid-client"]


@pytest.mark.parametrize("name", LICENCES)
def test_licence(name: str) -> None:
    assert vector("licence", name, "message") == VALID_CLIENT
    client = client_waiting_for_licence()
    client.receive_data(vector("licence", name, "pdu"))
    assert client.events() == []  # it waits for Demand Active


def test_our_licence_is_the_recommended_one() -> None:
    sent = b"".join(Joined().run().sent_by_server)
    assert vector("licence", "recommended-licence-valid-client", "pdu") in sent


def goodbyes() -> list[bytes]:
    pdus = group("server_disconnect_sequence_unencrypted")["pdus"]
    return [bytes.fromhex(v["pdu"]) for v in pdus]


def test_the_goodbye_of_the_original_server() -> None:
    joined = Joined().run()
    for wire in goodbyes():
        joined.client.receive_data(wire)
    assert joined.client.events()[-1] == Disconnected(1, clean=True)


def test_our_goodbye_differs_where_the_specification_wants_it() -> None:
    joined = Joined().run()
    joined.server.disconnect(1)
    error_info, deactivate, ultimatum = joined.server.data_to_send()
    wanted = goodbyes()
    assert ultimatum == wanted[2]
    (ours,), (theirs,) = split_share(error_info[14:]), split_share(wanted[0][14:])
    assert ShareData.parse(ours[2]) == ShareData.parse(theirs[2])
    assert (ours[:2], theirs[:2]) == ((7, 1002), (7, 0))  # 1.13: real pduSource
    (full,), (short,) = split_share(deactivate[14:]), split_share(wanted[1][14:])
    assert full[0] == short[0] == ShareType.DEACTIVATE_ALL
    assert (len(full[2]), len(short[2])) == (7, 0)  # B.1: full length


# ------------------------------------------------------- nothing forgotten ----

TEXT = {"title", "companion", "conventions", "cross_check"}


def test_every_vector_of_the_file_is_used() -> None:
    """As a whole group, or by its id; somewhere in the tests."""
    tests = Path(__file__).parent.parent
    sources = "".join(p.read_text("utf-8") for p in tests.rglob("*.py"))
    unused = []
    for name in set(VECTORS) - TEXT:
        whole = (f'group("{name}")', f'["{name}"]["vectors"]')
        found = group(name)
        ids = [v.get("id") for v in found] if isinstance(found, list) else [None]
        if any(i is None or f'"{i}"' not in sources for i in ids):
            unused += [] if any(w in sources for w in whole) else [(name, ids)]
    assert unused == []


# ------------------------------------------------------------ text rules ----


@each_row("case", group("domain_screen_suffix"))
def test_domain_suffix(case: dict[str, Any]) -> None:
    wanted = case["domain_out"], case["screen_index"]
    assert split_screen(case["domain_in"]) == wanted


@pytest.mark.parametrize(
    "case", [c for c in group("port_lists") if c["bind_order"] is not None]
)
def test_port_lists(case: dict[str, Any]) -> None:
    assert parse_ports(case["tcp_ports"]) == case["bind_order"]


@pytest.mark.parametrize(
    "case", [c for c in group("port_lists") if c["bind_order"] is None]
)
def test_port_lists_that_cannot_be_stored_are_harmless(case: dict[str, Any]) -> None:
    assert all(0 < port < 65536 for port in parse_ports(case["tcp_ports"]))


def test_constants_agree() -> None:
    assert share.SERVER_USER == mcs.USER_BASE + 1


@each_row("vector", group("port_lists"), ids=lambda v: repr(v["tcp_ports"]))
def test_port_lists_that_a_user_types_are_checked(vector: dict[str, Any]) -> None:
    stored = vector["stored_when_set_through_api"]
    if stored is None:
        with pytest.raises(SettingsError, match="list of ports"):
            check_ports(vector["tcp_ports"])
    else:
        assert check_ports(vector["tcp_ports"]) == stored
