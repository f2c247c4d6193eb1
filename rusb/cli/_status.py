"""Exit statuses, after ``sysexits.h``; the README lists them."""

from rusb.errors import (
    AuthenticationError,
    BackendError,
    CertificateError,
    ConnectionLost,
    ControlError,
    DeviceBusy,
    DeviceGone,
    FilterError,
    GuestError,
    ListenError,
    NegotiationError,
    NoPermission,
    PluginError,
    ProtocolError,
    RusbError,
    SettingsError,
)

from ._vbox_options import UsageError

__all__ = ["EXIT_INTERRUPTED", "EXIT_USAGE", "STATUSES", "exit_status"]

EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

STATUSES: dict[type[RusbError], tuple[int, str]] = {
    UsageError: (EXIT_USAGE, "the command line is wrong"),
    FilterError: (EXIT_USAGE, "a filter is invalid"),
    PluginError: (EXIT_USAGE, "no such backend or guest kind"),
    SettingsError: (65, "the machine's settings or a file cannot be used"),
    AuthenticationError: (67, "the server refused the credentials"),
    ControlError: (72, "a machine is running, is not running, or refused a command"),
    ListenError: (69, "no port to listen on is free"),
    GuestError: (69, "the guest cannot be reached, or refused"),
    BackendError: (71, "the local USB system failed"),
    DeviceBusy: (73, "a device is in use on this machine"),
    DeviceGone: (74, "a device was unplugged"),
    NegotiationError: (75, "client and server have no security or protocol in common"),
    ConnectionLost: (76, "the connection failed or broke"),
    ProtocolError: (76, "the peer violated the protocol"),
    NoPermission: (77, "no permission to use a device"),
    CertificateError: (78, "the server's certificate is not trusted"),
}
"""Exit status and meaning of each error; the most special class counts."""


def exit_status(error: RusbError) -> int:
    """Return the exit status for *error*; 70 for one that the table lacks."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind][0]
    return 70
