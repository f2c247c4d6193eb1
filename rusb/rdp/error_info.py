"""Error-info codes: why a server ends a connection (vrdp-server.md 8.5)."""

__all__ = ["DENIALS", "DENIED", "SLOT_IS_TAKEN", "STOPPED", "explain"]

STOPPED, DENIED = 1, 7
"""The server wants the end; the logon was not right."""

DENIALS = DENIED, 9
"""What servers say of a logon that is not right."""

SLOT_IS_TAKEN = 0x0408
"""MS-RDPBCGR 2.2.5.1.1: all available destinations are in use."""

REASONS = {
    1: "server initiated disconnect",
    2: "server initiated logoff",
    3: "server idle timeout reached",
    4: "server logon timeout reached",
    5: "another user connected to the session",
    6: "the server is out of memory",
    7: "the server denied the connection",
    9: "the user cannot connect to the server due to insufficient access privileges",
    12: "logoff requested by the user",
    SLOT_IS_TAKEN: "it serves one client at a time, and one is connected",
}
"""What rdesktop says for a code, and ours."""


def explain(reason: int) -> str:
    """Return what a code means."""
    return REASONS.get(reason, f"reason {reason}")
