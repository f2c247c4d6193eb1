"""VRDE properties and extra data that do not do what they seem to say."""

import re

from rusb.cli._hints import did_you_mean
from rusb.server.vbox.ports import check_address, check_ports
from rusb.server.vbox.settings import FEATURES
from rusb.server.vbox.values import read_number

from ._common import warn

__all__ = [
    "NO_MICROPHONE",
    "PROPERTIES",
    "QUALITY",
    "check_property",
    "note_extra",
    "note_library",
    "note_property",
]

NO_MICROPHONE = (
    "the guest has no microphone, because QEMU's VNC server (QEMU 7.2) offers none"
)
UPSTREAM = "Client/DisableUpstreamAudio"
SWITCH, QUALITY, METHOD = "Client/Disable", "VideoChannel/Quality", "Security/Method"

PROPERTIES = (
    *("TCP/Ports", "TCP/Address"),
    *("VideoChannel/Enabled", QUALITY, "VideoChannel/DownscaleProtection"),
    *(f"{SWITCH}{feature}" for feature in FEATURES),
    *(UPSTREAM, "Client/DisableRDPDR", "H3DRedirect/Enabled"),
    *(METHOD, "Security/ServerCertificate", "Security/ServerPrivateKey"),
    *("Security/CACertificate", "Audio/RateCorrectionMode", "Audio/LogPath"),
)
"""VRDE properties that are shown, set or not (vrdp-server.md 4.5)."""

_KNOWN = (*PROPERTIES, "Security/RequireEncryption", "Security/RDPCertificate")

_METHODS = "TLS, Negotiate, RDP"
METHODS = frozenset(_METHODS.lower().split(", "))

_SWITCHES = [f"{f}/Feature/{SWITCH}{n}" for f in ("VRDE", "VRDP") for n in FEATURES]
_OWN = ("rusb/Engine", "rusb/Storage", "rusb/Resume", "rusb/Hold")
_OF_FILTER = re.compile(r"rusb/Filter/.+/(InterfaceClass|Storage|Hold)", re.DOTALL)
_USERS = "VBoxAuthSimple/users/"


def note_property(name: str, value: str) -> None:
    """Say of a VRDE property that it does not do what its value says."""
    if name == UPSTREAM:
        warn(f"{UPSTREAM} changes nothing: {NO_MICROPHONE}")
    elif name not in _KNOWN:
        if value:
            hint = did_you_mean(name, _KNOWN)
            warn(f"{name} changes nothing: rusb has no such property{hint}")
    elif name.startswith(SWITCH):
        _note_switch(name, value)
    elif name == QUALITY and value and not _is_quality(value):
        warn(f"{QUALITY} {value!r} is not from 10 to 100; the nearest, or 75, is used")
    elif name == METHOD and value and value.lower() not in METHODS:
        warn(f"{METHOD} {value!r} is unknown, so TLS is used; choose one of {_METHODS}")


def check_property(name: str, value: str) -> str:
    """Return what a VRDE property is to be; empty: it is not set.

    Raises:
        SettingsError: no server can listen there.
    """
    if value and name == "TCP/Ports":
        return check_ports(value)
    return check_address(value) if name == "TCP/Address" else value


def note_extra(key: str, value: str) -> None:
    """Say of a machine's extra data that they do not do what they seem to."""
    if not value:
        return
    if key.startswith(("VRDE/Feature/", "VRDP/Feature/")):
        if key in _SWITCHES:
            _note_switch(key, value)
        else:
            hint = did_you_mean(key, _SWITCHES)
            warn(f"{key} changes nothing: rusb has no such switch{hint}")
    elif key.startswith(_USERS):
        from rusb.server.auth.hashes import is_hash  # most keys are none

        if not is_hash(value):
            warn(
                f"{key} is not the hash of a password, so"
                f" {key.removeprefix(_USERS)!r} cannot log on; 'rusb passwordhash'"
                " makes one"
            )
    elif key.startswith("rusb/") and key not in _OWN and not _OF_FILTER.fullmatch(key):
        hint = did_you_mean(key, _OWN)
        warn(f"{key} changes nothing: rusb has no such key{hint}")


def note_library(name: str) -> None:
    """Say of an authentication library that nobody can log on with it."""
    from rusb.server.auth.module import foreign  # few name one

    if problem := foreign(name):
        warn(problem)


def _note_switch(name: str, value: str) -> None:
    if value not in ("", "0", "1"):
        warn(f"{name} {value!r} switches nothing off; 1 does")


def _is_quality(text: str) -> bool:
    number = read_number(text)
    return number is not None and 10 <= number <= 100
