"""Ports at which guests of other programs are waited for."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

from rusb.errors import GuestError, Hint
from rusb.oserrors import reason
from rusb.paths import make_private

from ..vbox.files import belongs_to_others

__all__ = ["is_stale", "listen", "listen_at", "make_own_folder", "parse_place"]

log = logging.getLogger(__name__)


def parse_place(text: str, port: int | None = None) -> tuple[str, int]:
    """Read ``[ADDRESS:]PORT``; *port* is that of an empty text.

    An IPv6 address has brackets. Without an address it is 127.0.0.1.

    Raises:
        GuestError: that is no such place.
    """
    if not text and port is not None:
        return "127.0.0.1", port
    found = re.fullmatch(r"(?:(?:\[([^]]*)\]|([^:]*)):)?([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise GuestError(f"{text!r} must be [ADDRESS:]PORT").hinting(
            Hint.OTHER_GUEST_ADDRESS
        )
    return found[1] or found[2] or "127.0.0.1", int(found[3])


async def listen(
    address: str, port: int, accept: Callable[[], asyncio.Protocol]
) -> asyncio.Server:
    """Listen there; who may come in is not asked, so warn where that is everybody.

    Raises:
        GuestError: it cannot be listened there.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(accept, address, port)
    except (OSError, UnicodeError) as error:
        raise GuestError(
            f"cannot listen at {address} port {port}: {reason(error)}"
        ).hinting(Hint.OTHER_GUEST_ADDRESS) from error
    bound = [sock.getsockname()[0] for sock in server.sockets]
    outside = [a for a in bound if not ipaddress.ip_address(a).is_loopback]
    if outside:
        log.warning(
            "nobody is asked for a password, nothing is encrypted, and port %d is open"
            " to other machines (%s): anyone who can reach it can use the devices."
            " Listen on 127.0.0.1, or let a firewall decide",
            port,
            ", ".join(outside),
        )
    return server


async def listen_at(
    path: Path, accept: Callable[[], asyncio.Protocol]
) -> asyncio.Server:
    """Listen at a socket of the file system, which only its owner can use.

    Raises:
        GuestError: it cannot be listened there.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if _is_socket(path) and await is_stale(path):
            os.unlink(path)  # of a server that was killed
        before = os.umask(0o177)  # of the process: nothing else may run meanwhile
        try:
            sock.bind(str(path))  # asyncio would take it away from another server
        finally:
            os.umask(before)
        try:
            return await _serve(accept, sock)
        except BaseException:
            os.unlink(path)
            raise
    except OSError as error:
        sock.close()
        raise GuestError(f"cannot listen at {path}: {reason(error)}").hinting(
            Hint.OTHER_GUEST_ADDRESS
        ) from error
    except BaseException:
        sock.close()
        raise


async def _serve(
    accept: Callable[[], asyncio.Protocol], sock: socket.socket
) -> asyncio.Server:
    """Serve; if this is cancelled, not even for a moment more."""
    server = await asyncio.get_running_loop().create_unix_server(
        accept, sock=sock, start_serving=False
    )
    try:
        await server.start_serving()
    except BaseException:
        server.close()
        raise
    return server


def make_own_folder(folder: Path, kind: str) -> None:
    """Make the directory of a guest, which must be ours alone.

    Args:
        folder: the directory.
        kind: of guest, for messages.

    Raises:
        GuestError: it cannot be made, or is not ours.
    """
    try:
        make_private(folder)
        is_foreign = belongs_to_others(folder)
    except OSError as error:
        raise GuestError(
            f"cannot create the directory {folder} for {kind} guests: {reason(error)}"
        ).hinting(Hint.OTHER_GUEST_ADDRESS) from error
    if is_foreign:
        raise GuestError(
            f"{folder} belongs to another user, can be written by others, or is a"
            " symbolic link"
        ).hinting(Hint.OTHER_GUEST_ADDRESS)


def _is_socket(path: Path) -> bool:
    return path.is_socket()


async def is_stale(place: Path | str | int) -> bool:
    """Does nobody listen there any more, at a path or a port of 127.0.0.1?"""
    try:
        if isinstance(place, int):
            _, writer = await asyncio.open_connection("127.0.0.1", place)
        else:
            _, writer = await asyncio.open_unix_connection(str(place))
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:  # what belongs to somebody else
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return False
