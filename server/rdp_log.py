"""The lines of ``VBox.log`` about RDP connections (vrdp-server.md 7.3)."""

from rusb.rdp import notices
from rusb.rdp.security import Method, name_wish

__all__ = ["notice_lines"]


def notice_lines(notice: notices.Notice) -> tuple[str, ...]:
    """Return what ``VBox.log`` says of a connection (7.3)."""
    return tuple(f"VRDP: {text}" for text in _notice_texts(notice))


def _notice_texts(notice: notices.Notice) -> tuple[str, ...]:
    match notice:
        case notices.SecurityAsked(methods, protocols):
            wish = f"Client requested {name_wish(protocols)}"
            return (f"Policy: {_policy(methods)}", wish)
        case notices.SecurityChosen(method):
            kind = "enhanced" if method is Method.TLS else "standard"
            return (f"Using {kind} RDP security",)
        case notices.EncryptionOffered(methods):
            return (f"Methods 0x{methods:08x}",)
        case notices.ChannelAsked(name, channel, is_known):
            verdict = "Accepted." if is_known else "Not supported."
            return (f"Channel: [{name}] [{channel}]. {verdict}",)
        case notices.UsbUnreachable():
            return (_USB_UNREACHABLE,)
        case notices.UnknownBlock(kind):
            return (f"Unsupported GCC block 0x{kind:04X}",)
        case notices.EncryptionChosen(encryption):
            return (f"Encryption: {encryption.label}",)
        case notices.X509Chosen():
            return ("Certificate: X.509",)
        case notices.ClientDescribed(kind, width, height, depth):
            screen = f"Client screen: {width}x{height}, {depth} bit"
            return (f"Client type: {kind}", screen)
        case notices.DisconnectAsked():
            return ("Client requested disconnect",)
    return ()


_USB_UNREACHABLE = (
    "The client has dynamic channels, but not the channel that VirtualBox's clients use"
    " for USB: USB devices that it redirects (xfreerdp /usb:…, RemoteFX USB) need"
    " MS-RDPEUSB, which this server does not offer, so they are not attached."
    " Offer them with rusb connect or rdesktop-vrdp -r usb."
)


def _policy(methods: frozenset[Method]) -> str:
    """Say what a server allows."""
    if Method.RDP not in methods:
        return "enhanced RDP security"
    if Method.TLS not in methods:
        return "standard RDP security"
    return "negotiating RDP security"
