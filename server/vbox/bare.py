"""Settings of a machine that only has a name: what ``rusb serve --name`` serves."""

import uuid
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from rusb.filters.model import Filter

from .filter_attributes import class_key, to_attributes

__all__ = ["bare_machine"]

NAMES = uuid.UUID("6f2f8f0e-6a43-5d0c-9d6b-2f2c6c6a1f3e")
"""The name space of the UUIDs of machines that only have a name."""

SETTINGS = """<?xml version="1.0"?>
<!-- Made by rusb serve from its options, and made again each time. -->
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{{{uuid}}}" name={name}>
    <ExtraData>{extra}</ExtraData>
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>{filters}</DeviceFilters>
      </USB>
      <RemoteDisplay enabled="true" authType="{auth}" allowMultiConnection="true"/>
    </Hardware>
  </Machine>
</VirtualBox>
"""


def bare_machine(name: str, filters: Sequence[Filter], auth: str) -> bytes:
    """Return the settings, which are the same for the same arguments.

    Args:
        name: of the machine; its UUID is made of it.
        filters: which devices may come.
        auth: who may connect: ``null`` or ``external``.
    """
    rows = (
        " ".join(f"{key}={quoteattr(text)}" for key, text in to_attributes(f).items())
        for f in filters
    )
    extra = (
        f"<ExtraDataItem name={quoteattr(class_key(f.name))}"
        f" value={quoteattr(f.interface_class)}/>"
        for f in filters
        if f.interface_class
    )
    text = SETTINGS.format(
        uuid=uuid.uuid5(NAMES, name),
        name=quoteattr(name),
        extra="".join(extra),
        filters="".join(f"<DeviceFilter {row}/>" for row in rows),
        auth=auth.capitalize(),
    )
    return text.encode()
