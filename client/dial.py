"""Reach a server: TCP, then TLS and the RDP handshake of a :class:`RdpStream`."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Mapping

from rusb.aio.stream import RdpStream, TlsUpgrade
from rusb.aio.tls import KnownServers, client_context, fingerprint
from rusb.errors import CertificateError, ConnectionLost, RusbError
from rusb.oserrors import reason
from rusb.rdp.channels import ChannelHandler, ChannelRegistry
from rusb.rdp.client import ClientConnection, ClientSettings
from rusb.rdp.cookie import Cookie
from rusb.rdp.events import Event

from .config import ClientConfig
from .events import CertificateTrusted

__all__ = ["dial", "rdp_settings", "user_of"]

RESULTS = 40 << 20
"""Bytes of results that wait to be sent above which we read no more requests: what our
server lets one device have in flight, and a quarter more for their heads and for the
others, whose requests are read."""


def user_of(config: ClientConfig) -> str:
    """Return the name that the server is told."""
    return config.user or os.environ.get("USER", "")


def rdp_settings(
    config: ClientConfig, channels: ChannelRegistry, cookie: Cookie | None = None
) -> ClientSettings:
    """Translate a configuration into what the RDP core wants to know."""
    name = config.client_name or socket.gethostname().partition(".")[0]
    return ClientSettings(
        server=config.host,
        user=user_of(config),
        domain=config.domain,
        password=config.password,
        client_name=name[:15],
        shell=config.shell,
        directory=config.directory,
        width=config.width,
        height=config.height,
        depth=config.depth,
        screen=config.screen,
        is_usb_only=config.is_usb_only and config.screen is None,
        version=config.version,
        performance_flags=config.experience,
        console=config.console,
        compression=config.compression,
        remote_sound=config.leave_sound,
        wants_tls=config.security[0] == "tls",
        encryption=config.security[0] != "none",
        cookie=cookie,
        channels=(*config.channels[:2], *channels.static, *config.channels[2:]),
        dynamic=channels.dynamic,
    )


async def dial(
    config: ClientConfig,
    core: ClientConnection,
    *,
    on_event: Callable[[Event], None],
    channels: Mapping[int, ChannelHandler],
    on_lost: Callable[[RusbError | None], None],
    on_pressure: Callable[[bool], None],
    on_trust: Callable[[CertificateTrusted], None],
) -> RdpStream:
    """Connect and start the handshake; the stream goes on by itself.

    Raises:
        ConnectionLost: no such host, or nobody answers there.
        SettingsError: the file of ``config.ca`` cannot be used.
    """
    known = KnownServers(config.known_servers)

    def check(certificate: bytes) -> None:
        digest = hashlib.sha256(certificate).digest()
        if config.certificate and config.certificate != digest:
            raise CertificateError(
                f"{config.server} shows another certificate than the one it should"
                f" have: {fingerprint(certificate)}"
            )
        if config.ca is None and known.check(config.server, certificate):
            found = fingerprint(certificate)
            on_trust(CertificateTrusted(config.server, found, known.path))

    tls = TlsUpgrade(
        client_context(config.ca, legacy=config.legacy_tls), config.host, check
    )
    loop = asyncio.get_running_loop()
    try:
        _, stream = await loop.create_connection(
            lambda: RdpStream(
                core,
                on_event=on_event,
                channels=channels,
                on_lost=on_lost,
                on_pressure=on_pressure,
                tls=tls,
                high=RESULTS,
            ),
            config.host,
            config.port,
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectionLost(
            f"cannot find the host {config.host!r}: {reason(error)}; check the name"
        ) from error
    except OSError as error:
        raise ConnectionLost(
            f"Cannot connect to {config.server}: {reason(error)}. Check that the"
            " machine is running, that its remote display is enabled, and that the"
            " port is right."
        ) from error
    if stream.transport is not None:  # what the server logs as our address
        core.settings.address = stream.transport.get_extra_info("sockname")[0]
    return stream
