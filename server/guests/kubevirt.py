"""A virtual machine of KubeVirt as the guest (docs/spec/kubevirt.md).

Each device has a websocket of its own to the API server, which leads to one of the four
USB slots of a running machine; what passes is usbredir.
"""

import asyncio
import contextlib
import json
import logging
import re
import socket
import ssl
from collections.abc import Callable
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from rusb.aio.tasks import TaskSet
from rusb.errors import GuestError
from rusb.oserrors import reason
from rusb.usb.text import clean_text

from ._kubernetes import Cluster, find_cluster
from ._stream import DeviceStream, usbredir_core
from .base import AttachedDevice, GuestBackend

__all__ = ["KubevirtGuest"]

log = logging.getLogger(__name__)

SLOTS = 4
"""Devices of a machine with clientPassthrough."""

GROUP = "subresources.kubevirt.io"
PROTOCOL = "plain.kubevirt.io"

CONNECT_TIMEOUT = 15.0
"""Seconds until the websocket is open, and again until QEMU says hello."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the server gets to answer when we hang up."""

REDIAL_SECONDS = 1.0, 30.0
"""First and longest pause before a slot is tried again that was lost: a machine that
moves or restarts takes a while."""

MAX_MESSAGE = 32 << 20
"""Bytes of a message; usbredir packets have half of it at most."""

BLOCK = 256 << 10
"""Bytes of a message of ours, at most."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _Slot:
    """A device, and its way into the machine.

    Attributes:
        task: carries what passes, and dials again.
        stream: usbredir, while there is a connection.
        hello: set when QEMU has said something for the first time; an error if not.
    """

    def __init__(self, device: AttachedDevice) -> None:
        self.device = device
        self.task: asyncio.Task[None] | None = None
        self.stream: DeviceStream | None = None
        self.is_refused = False
        self.hello: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.hello.add_done_callback(lambda done: done.exception())


class KubevirtGuest(GuestBackend):
    """A running VirtualMachineInstance.

    Args:
        address: ``[NAMESPACE/]VMI``; without a namespace it is that of the kubeconfig's
            context, or of the pod.
        find: tells where the cluster is, each time anew; it may block.
    """

    def __init__(
        self, address: str | None = None, *, find: Callable[[], Cluster] = find_cluster
    ) -> None:
        super().__init__(address)
        self._find = find
        self._namespace, _, self._name = (address or "").rpartition("/")
        names = [self._name, *([self._namespace] if "/" in (address or "") else [])]
        if not all(map(_NAME.fullmatch, names)):
            raise GuestError(
                "kubevirt needs the name of a machine, as kubevirt:NAMESPACE/VMI"
            )
        self._slots: list[_Slot] = []
        self._tasks = TaskSet()

    async def start(self) -> None:
        """See that there is a cluster; whether the machine runs shows with a device."""
        cluster = await asyncio.to_thread(self._find)
        self._namespace = self._namespace or cluster.namespace
        log.info("KubeVirt at %s, by %s", cluster.server, cluster.source)

    async def attach(self, device: AttachedDevice) -> str:
        """Take a free slot of the machine.

        Raises:
            GuestError: there is none, or we may not.
        """
        if len(self._slots) >= SLOTS:
            raise GuestError(
                f"no free USB slot: {self._vmi} has {SLOTS}, and all are in use here"
            )
        slot = _Slot(device)
        self._slots.append(slot)
        slot.task = self._tasks.start(self._carry(slot), f"USB slot of {self._vmi}")
        try:
            await slot.hello
        except BaseException:
            await self._give_up(slot)
            raise
        return f"a USB slot of {self._vmi}"

    async def detach(self, device: AttachedDevice) -> None:
        """Give the slot back."""
        for slot in [s for s in self._slots if s.device is device]:
            await self._give_up(slot)

    async def aclose(self) -> None:
        """Give all slots back."""
        for slot in list(self._slots):
            await self._give_up(slot)
        await self._tasks.aclose()

    # --------------------------------------------------------------- our own ----

    @property
    def _vmi(self) -> str:
        return f"{self._namespace}/{self._name}" if self._namespace else self._name

    async def _give_up(self, slot: _Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
        if slot.stream is not None:
            await slot.stream.aclose()
        if slot.task is not None:
            slot.task.cancel()
            await asyncio.wait([slot.task])

    async def _carry(self, slot: _Slot) -> None:
        """Connect; dial again when the machine has moved, or was restarted."""
        first, longest = REDIAL_SECONDS
        pause, said = first, ""
        while slot in self._slots:
            try:
                await self._connect(slot)
                pause, said = first, ""
                why = "the connection to the machine ended"
            except (GuestError, OSError) as error:  # OSError: too many open files
                if not slot.hello.done():
                    slot.hello.set_exception(error)
                    return
                why = str(error) if isinstance(error, GuestError) else reason(error)
            if slot.is_refused:
                self._slots.remove(slot)
                self._lost(slot.device, "the machine refused the device")
                return
            if why != said and slot in self._slots:
                log.warning("%s: %s; trying again", slot.device.name, why)
                said = why
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _connect(self, slot: _Slot) -> None:
        """Carry one connection from its beginning to its end.

        Raises:
            GuestError: there was none.
        """
        websocket = await self._dial()
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    hello = await websocket.recv(decode=False)
            except (TimeoutError, ConnectionClosed) as error:
                raise GuestError(
                    f"{self._vmi} did not give a USB slot: all {SLOTS} may be in use by"
                    f" others, or it is not running{_closing(error)}"
                ) from error
            await self._pass(slot, websocket, hello)
        finally:
            await websocket.close()

    async def _pass(
        self, slot: _Slot, websocket: ClientConnection, hello: bytes
    ) -> None:
        """Carry usbredir between a device's stream and a websocket, until one ends."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=theirs)
        slot.stream = await DeviceStream.over(
            ours,
            slot.device,
            usbredir_core(slot.device),
            on_refused=lambda: self._refused(slot),
        )
        ways = [
            asyncio.ensure_future(_to_device(websocket, writer, hello)),
            asyncio.ensure_future(_to_machine(websocket, reader)),
        ]
        if not slot.hello.done():
            slot.hello.set_result(None)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            writer.close()
            slot.stream.abort()
            slot.stream = None

    def _refused(self, slot: _Slot) -> None:
        slot.is_refused = True
        if slot.stream is not None:
            slot.stream.abort()

    # -------------------------------------------------------------- dialling ----

    async def _dial(self) -> ClientConnection:
        cluster = await asyncio.to_thread(self._find)
        headers = {}
        if cluster.token:
            headers["Authorization"] = f"Bearer {cluster.token}"
        path = (
            f"/apis/{GROUP}/v1/namespaces/{quote(self._namespace)}"
            f"/virtualmachineinstances/{quote(self._name)}/usbredir"
        )
        server = re.sub("^http", "ws", cluster.server)
        try:
            return await connect(
                server + path,
                subprotocols=[PROTOCOL],
                additional_headers=headers,
                ssl=cluster.tls,
                compression=None,
                max_size=MAX_MESSAGE,
                open_timeout=CONNECT_TIMEOUT,
                close_timeout=CLOSE_TIMEOUT,
            )
        except InvalidStatus as error:
            code, body = error.response.status_code, error.response.body or b""
            raise GuestError(self._explain(code, bytes(body), cluster)) from error
        except TimeoutError as error:
            raise GuestError(f"{cluster.server} does not answer") from error
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason
            raise GuestError(
                f"the certificate of {cluster.server} is not the one that"
                f" {cluster.source} names: {why}"
            ) from error
        except OSError as error:
            why = reason(error)
            raise GuestError(f"cannot connect to {cluster.server}: {why}") from error
        except WebSocketException as error:
            raise GuestError(
                f"{cluster.server} is not an API server with KubeVirt: {error}"
            ) from error

    def _explain(self, code: int, body: bytes, cluster: Cluster) -> str:
        """Say what a status of HTTP means here, and what to do."""
        said = _message(body)
        more = f" ({said})" if said else ""
        match code:
            case 401:
                return (
                    f"{cluster.server} does not accept the credentials of"
                    f" {cluster.source}: they may have expired, so log in again{more}"
                )
            case 403:
                return (
                    f"you may not use the USB slots of {self._vmi}: an administrator"
                    " has to allow 'get' on 'virtualmachineinstances/usbredir' of"
                    f" {GROUP} in namespace {self._namespace}; the roles admin and edit"
                    f" have it, view does not{more}"
                )
            case 404:
                return (
                    f"there is no running machine {self._vmi}, or the cluster does not"
                    f" have KubeVirt{more}"
                )
            case 503:
                return f"no free USB slot: all {SLOTS} of {self._vmi} are in use{more}"
        return (
            f"{self._vmi} gives no USB slot, status {code}: its specification needs"
            f" 'clientPassthrough: {{}}' under domain.devices before it starts{more}"
        )


async def _to_device(
    websocket: ClientConnection, writer: asyncio.StreamWriter, hello: bytes
) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        writer.write(hello)
        while True:
            await writer.drain()
            writer.write(await websocket.recv(decode=False))


async def _to_machine(
    websocket: ClientConnection, reader: asyncio.StreamReader
) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := await reader.read(BLOCK):
            await websocket.send(data)


def _message(body: bytes) -> str:
    """What a Status of Kubernetes says, or its text."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            text = str(found.get("message") or "")
    return clean_text(text.strip())[:300]


def _closing(error: BaseException) -> str:
    """What the other end said when it closed."""
    received = getattr(error, "rcvd", None)
    text = clean_text(received.reason)[:200] if received is not None else ""
    return f" ({text})" if text else ""


PLUGIN = KubevirtGuest
