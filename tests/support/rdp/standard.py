"""Sessions under standard RDP security."""

import struct

from rusb.rdp import mcs
from rusb.rdp.client import ClientConnection, ClientSettings, Screen
from rusb.rdp.gcc import ServerBlocks
from rusb.rdp.security import Method, StandardSecurity
from rusb.rdp.server import ServerSettings
from rusb.rdp.standard import (
    Encryption,
    RsaKey,
    derive_keys,
    proprietary_certificate,
)
from rusb.rdp.svc import ChannelSender
from rusb.rdp.x224 import ConnectionConfirm
from tests.support.rdp.joined import no_random
from tests.support.rdp.raw import group

STRENGTHS = [Encryption.BITS_40, Encryption.BITS_56, Encryption.BITS_128]


def make_key() -> RsaKey:
    numbers = group("security_exchange")["rsa_key"]
    return RsaKey(int(numbers["p_int"], 16), int(numbers["q_int"], 16))


KEY = make_key()


def encrypted(
    *strengths: Encryption, version: int = 5, screen: Screen | None = None
) -> tuple[ClientSettings, ServerSettings]:
    return (
        ClientSettings(
            user="vera",
            password="secret",
            wants_tls=False,
            version=version,
            screen=screen,
            channels=("vrdpusb",),
        ),
        ServerSettings(
            frozenset({Method.RDP}),
            key=KEY,
            encryption=strengths or (Encryption.BITS_128,),
        ),
    )


def secured(
    method: int = 2, level: int = 2, *, random: int = 32, certificate: bytes = b""
) -> ServerBlocks:
    blocks = ServerBlocks.granting(0, 1)
    blocks.method, blocks.level = method, level
    certificate = certificate or proprietary_certificate(KEY.modulus, 65537)
    lengths = struct.pack("<II", random, len(certificate))
    blocks.security = lengths + bytes(32) + certificate
    return blocks


class Peer:
    """Our client, and a server of which every byte can be chosen."""

    def __init__(self) -> None:
        self.client = ClientConnection(encrypted()[0], random_bytes=no_random)
        self.client.start()
        self.client.data_to_send()
        self.client.receive_data(ConnectionConfirm(selected=0).serialize())
        self.client.data_to_send()
        self.sender = ChannelSender(is_server=True, initiator=1)
        keys = derive_keys(bytes(32), bytes(32), 2)
        self.security = StandardSecurity(keys, 2, is_server=True)

    def answer(self, blocks: ServerBlocks) -> list[bytes]:
        response = mcs.serialize_connect_response(blocks.serialize())
        self.client.receive_data(response)
        self.client.receive_data(mcs.attach_confirm(1))
        for channel in (1002, 1003, 1004):
            self.client.receive_data(mcs.join_confirm(1, channel))
        return self.client.data_to_send()[-2:]

    def send(self, payload: bytes) -> None:
        head = self.sender.send_data(mcs.IO_CHANNEL, len(payload))
        self.client.receive_data(head + payload)
