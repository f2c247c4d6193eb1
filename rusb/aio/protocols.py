"""Load a wire protocol by name, and listen to its channels."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias, cast

import rusb.wire
from rusb import plugins
from rusb.rdp.channels import ChannelHandler, ChannelLimits, ChannelListener
from rusb.wire.base import ChannelKind, WireProtocol

__all__ = ["Opened", "listeners", "load_protocol"]

Opened: TypeAlias = Callable[[WireProtocol, int, str], ChannelHandler | None]
"""Called with a protocol, and the number and the name of a channel of it."""


def load_protocol(name: str) -> WireProtocol:
    """Return the ``PLUGIN`` of a module in ``rusb/wire``.

    Raises:
        PluginError: there is no such wire protocol.
    """
    return cast(WireProtocol, plugins.load(rusb.wire, name))


def listeners(
    protocol: WireProtocol,
    opened: Opened,
    refused: Callable[[WireProtocol, str], None] = lambda protocol, name: None,
) -> Iterator[ChannelListener]:
    """Yield a listener for each name of the protocol's channels."""
    spec = protocol.channel
    for name in (spec.name, *spec.further):
        yield ChannelListener(
            name,
            partial(opened, protocol),
            is_dynamic=spec.kind is ChannelKind.DYNAMIC,
            limits=ChannelLimits(spec.max_message, spec.max_channels),
            refused=partial(refused, protocol, name),
        )
