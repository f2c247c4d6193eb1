"""Load a wire protocol by name."""

from typing import cast

import rusb.wire
from rusb import plugins
from rusb.wire.base import WireProtocol

__all__ = ["load_protocol"]


def load_protocol(name: str) -> WireProtocol:
    """Return the ``PLUGIN`` of a module in ``rusb/wire``.

    Raises:
        PluginError: there is no such wire protocol.
    """
    return cast(WireProtocol, plugins.load(rusb.wire, name))
