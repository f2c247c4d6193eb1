"""What to do about an error, in the words of the command line."""

from collections.abc import Mapping

from rusb.errors import Hint

__all__ = ["ADVICE", "RDESKTOP_ADVICE", "advised"]

ADVICE: Mapping[Hint, str] = {
    Hint.ACCEPT_CLEARTEXT: "Use --security none to accept that.",
    Hint.ACCEPT_RC4: "Use --security negotiate to connect with RC4, which is weak.",
    Hint.ALLOW_SEVERAL_CLIENTS: "'modifyvm NAME --vrdemulticon on' allows several.",
    Hint.DROP_AUTHORITY: "If the server's owner has really switched TLS off, remove"
    " --ca and connect again.",
    Hint.OTHER_AUTHORITY: "Give the authority that signed it with --ca, or omit --ca"
    " to trust the server on first use. If an authority in between signed it, its"
    " certificate must be in the server's file, too.",
    Hint.OTHER_KNOWN_SERVERS: "Or name another file with --known-servers, or another"
    " directory with RUSB_STATE.",
    Hint.TAKE_FROM_SYSTEM: "Or use --force.",
    Hint.OTHER_ADDRESS: "Check --address of rusb serve, or --vrde-address.",
    Hint.OTHER_PORT: "Choose another port with --vrde-port, or with --port of rusb"
    " serve.",
    Hint.OTHER_LOG: "Name another file with --log.",
    Hint.OTHER_GUEST_ADDRESS: "Name another place with --guest KIND:ADDRESS.",
}
"""Of rusb's own commands and of those of VBoxManage."""

RDESKTOP_ADVICE: Mapping[Hint, str] = {
    Hint.ACCEPT_CLEARTEXT: "Use -e to accept that.",
    Hint.ACCEPT_RC4: "Set RUSB_SECURITY=negotiate to connect with RC4, which is weak.",
    Hint.ALLOW_SEVERAL_CLIENTS: ADVICE[Hint.ALLOW_SEVERAL_CLIENTS],
    Hint.OTHER_KNOWN_SERVERS: "Or set RUSB_STATE to another directory.",
}
"""Of rdesktop-vrdp; it has no word for the rest."""


def advised(error: Exception, advice: Mapping[Hint, str] = ADVICE) -> str:
    """Return what an error says, and what to do about it."""
    hint = getattr(error, "hint", None)
    text = advice.get(hint) if hint is not None else None
    return f"{error}. {text}" if text else str(error)
