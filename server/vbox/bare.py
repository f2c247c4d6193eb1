"""Settings of a machine that only has a name: what ``rusb serve --name`` serves."""

import uuid
from collections.abc import Sequence

from rusb.filters.model import Filter

from .document import escape
from .filter_attributes import INTERFACE_CLASS, to_attributes
from .own_keys import filter_key

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

    Raises:
        SettingsError: a text has characters that XML does not allow.
    """
    rows = (
        " ".join(f"{key}={_quoted(text)}" for key, text in to_attributes(f).items())
        for f in filters
    )
    extra = (
        f"<ExtraDataItem name={_quoted(filter_key(f.name, INTERFACE_CLASS))}"
        f" value={_quoted(f.interface_class)}/>"
        for f in filters
        if f.interface_class
    )
    text = SETTINGS.format(
        uuid=uuid.uuid5(NAMES, name),
        name=_quoted(name),
        extra="".join(extra),
        filters="".join(f"<DeviceFilter {row}/>" for row in rows),
        auth=auth.capitalize(),
    )
    return text.encode()


def _quoted(text: str) -> str:
    return f'"{escape(text).decode()}"'
