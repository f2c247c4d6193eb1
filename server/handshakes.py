"""Why the handshake of TLS with a client failed, and what would help."""

from rusb.errors import HandshakeError
from rusb.rdp.security import NLA_ADVICE, Method
from rusb.rdp.x224 import Protocol

__all__ = ["explain_handshake"]

_OLD = {
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED",
}
"""OpenSSL's words where one end wants TLS 1.2 and the other knows nothing newer than
1.0 or 1.1; rdesktop-vrdp 1.8 is such a client and says "SSL required by server"."""

_NOTHING_COMMON = {
    "NO_SHARED_CIPHER",
    "NO_SHARED_SIGNATURE_ALGORITHMS",
    "NO_SUITABLE_SIGNATURE_ALGORITHM",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "NO_SHARED_GROUP",
}

_DISTRUST = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "EXPIRED")


def explain_handshake(
    error: HandshakeError, requested: int | None, methods: frozenset[Method]
) -> str:
    """Say what would help, for the log and the terminal.

    Args:
        requested: protocols that the client asked for.
        methods: what the machine allows.
    """
    if error.reason in _OLD:
        if Method.RDP in methods:
            return (
                "it supports nothing newer than TLS 1.1, and may connect again without"
                " TLS, which this machine allows (Security/Method=Negotiate)"
            )
        return (
            "it supports nothing newer than TLS 1.1 (like rdesktop-vrdp 1.8), and this"
            " server requires TLS 1.2. Update the client; or allow RC4: set the"
            " machine's Security/Method=Negotiate; or allow TLS 1.0: start rusb serve"
            " with --legacy-tls. A client whose OpenSSL has a higher security level"
            " also needs CipherString = DEFAULT@SECLEVEL=0 in its openssl.cnf"
        )
    if error.reason in _NOTHING_COMMON:
        return (
            "client and server have no cipher or signature algorithm in common; check"
            " the security level of OpenSSL at both ends, and the kind of key in"
            " Security/ServerPrivateKey"
        )
    if any(word in error.reason for word in _DISTRUST):
        return (
            "the client does not trust the server's certificate; accept the certificate"
            " at the client, or set Security/ServerCertificate to one that an authority"
            " known to the client signed"
        )
    if error.reason:
        return ""
    if (requested or 0) & Protocol.CREDSSP:
        return (
            "it also asked for network level authentication, and disconnects if it"
            f" insists on that: {NLA_ADVICE}"
        )
    return "it may not trust the server's certificate"
