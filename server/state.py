"""What runs, who is connected, what is attached: how a machine is, for programs.

The control socket answers ``info`` with it, ``showvminfo --json`` prints it. Programs
of other versions read it: what they do not know they ignore, so that fields may be
added with a default; any other change is a new ``VERSION``.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rusb.errors import ControlError
from rusb.filters.engine import Interfaces
from rusb.usb.device import DeviceInfo

from .vbox.settings import RemoteDisplay

__all__ = [
    "ClientState",
    "DeviceState",
    "DisplayState",
    "InterfaceState",
    "MachineState",
    "SoundState",
    "StreamState",
    "Verdict",
    "ViewState",
]

VERSION = 1
"""Of the form in JSON."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the machine's filters say of a device of a client.

    Attributes:
        reason: the whole sentence: the filter that admits it, or why none does.
        filter: its place in the list; None: none admits it.
    """

    admitted: bool
    reason: str
    filter: int | None = None


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """An interface of a device that the server has read.

    Attributes:
        classes: of its alternate settings, in ascending order.
    """

    number: int
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StreamState:
    """An isochronous endpoint that streams, or did.

    Attributes:
        endpoint: its address.
        packets: that the guest got or gave.
        bad: of those, with an error at the device.
        underruns: IN: intervals for which nothing had come in time; OUT: how often the
            device ran dry.
        late: packets that came too late and were dropped.
        drift: packets that were left out since the device's clock is faster than the
            guest's.
        fill, target: seconds in the buffer, and how many it should hold.
        jitter: seconds by which arrivals differ, 95 of 100 of them.
    """

    endpoint: int
    is_running: bool = False
    packets: int = 0
    bad: int = 0
    underruns: int = 0
    late: int = 0
    drift: int = 0
    fill: float = 0.0
    target: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device that a client offers, or that is plugged in by hand.

    Attributes:
        uuid, address: what commands call it by.
        attached: does the guest have it?
        name: of its place in the guest, while it is attached: ``usb-3``.
        client: the number of the client whose it is; None: it is this machine's.
        verdict: None: filters have no say, or have not been asked yet.
        problem: why the guest does not have what the filters admit; may be empty.
        interfaces: None: they have not been read.
        grace: seconds for which it is still kept without its client; None: the client
            is there.
        streams: its isochronous endpoints that stream, or did since it was attached.
    """

    uuid: str
    address: str
    vendor_id: int
    product_id: int
    revision: int
    manufacturer: str = ""
    product: str = ""
    serial: str = ""
    port: int = 0
    attached: bool = False
    name: str = ""
    client: int | None = None
    verdict: Verdict | None = None
    problem: str = ""
    interfaces: tuple[InterfaceState, ...] | None = None
    grace: float | None = None
    streams: tuple[StreamState, ...] = ()

    @classmethod
    def of(
        cls,
        info: DeviceInfo,
        *,
        uuid: str,
        address: str,
        attached: bool,
        name: str = "",
        client: int | None = None,
        verdict: Verdict | None = None,
        problem: str = "",
        interfaces: Interfaces | None = None,
        grace: float | None = None,
        streams: tuple[StreamState, ...] = (),
    ) -> Self:
        """Return the state of the device that *info* describes."""
        read = None
        if interfaces is not None:
            read = tuple(
                InterfaceState(number, tuple(sorted(classes)))
                for number, classes in interfaces.items()
            )
        return cls(
            uuid,
            address,
            vendor_id=info.vendor_id,
            product_id=info.product_id,
            revision=info.bcd_device,
            manufacturer=info.manufacturer or "",
            product=info.product or "",
            serial=info.serial or "",
            port=info.port,
            attached=attached,
            name=name,
            client=client,
            verdict=verdict,
            problem=problem,
            interfaces=read,
            grace=grace,
            streams=streams,
        )

    @property
    def info(self) -> DeviceInfo:
        """The device as filters see it."""
        return DeviceInfo(
            0,
            self.vendor_id,
            self.product_id,
            bcd_device=self.revision,
            manufacturer=self.manufacturer or None,
            product=self.product or None,
            serial=self.serial or None,
            port=self.port,
            remote=self.client is not None,
        )


@dataclass(frozen=True, slots=True)
class ViewState:
    """What a client sees.

    Attributes:
        screen: counted from 0.
        width, height: of its desktop, in pixels.
        depth: bits per pixel.
        form: how pictures are sent, in words; empty: none are.
        frames, bytes: pictures sent so far.
    """

    screen: int
    width: int
    height: int
    depth: int
    form: str
    frames: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SoundState:
    """What a client hears.

    Attributes:
        rate: frames a second.
        blocks: of 40 ms, sent so far.
        dropped: those that were not sent, because the client did not keep up.
    """

    rate: int
    blocks: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class ClientState:
    """A client that is logged on, or was.

    Attributes:
        number: never used again by the same server.
        address: where it connects from.
        build: of the client's program, as it says.
        since, ended: seconds since 1970; None: it is still there.
        sent, received: bytes, as the server sees it.
        inputs: keys and mouse events.
        view: None: it sees nothing.
        sound: None: it hears nothing.
        clipboard: which way texts go, a word of ``--clipboard-mode``; ``disabled``,
            too, if the client takes no part.
    """

    number: int
    user: str
    domain: str
    name: str
    address: str
    build: int
    is_tls: bool
    since: float
    sent: int
    received: int
    inputs: int
    view: ViewState | None = None
    sound: SoundState | None = None
    clipboard: str = "disabled"
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class DisplayState:
    """A remote display and its clients.

    Attributes:
        settings: as they count now; the command line may have other ones than the file.
        port: -1: it is off; 0: it did not start (vrdp-server.md 5.3).
        clients_so_far: how many logged on since it was started.
        last: the client that left last.
        sent_total, received_total: bytes of all clients so far.
        screens: width and height of each; zeros: the guest does not show it.
    """

    settings: RemoteDisplay
    port: int = -1
    clients: tuple[ClientState, ...] = ()
    clients_so_far: int = 0
    last: ClientState | None = None
    sent_total: int = 0
    received_total: int = 0
    screens: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class MachineState:
    """A machine that runs, or whose USB is served.

    Attributes:
        state: QEMU's word, ``running`` or ``paused``; ``stuck``: it does not answer;
            or VirtualBox's: ``teleportingin``, ``teleporting``, ``teleported``.
        process: the id of the process that holds it.
        started: seconds since 1970; None: not known.
        devices: those of clients, attached or not, and those plugged in by hand.
        forwards: rules in force, by slot of the network adapter; None: not known.
        links: which adapters have their cable in, by slot; None: not known.
        notes: what its user was told at the start.
        waits: the port on which it waits for another host to send it; 0: it does not.
        has_sound, clipboard: as they count now, see
            :class:`~rusb.server.vbox.settings.Machine`; None: not known.
        guest: where devices go, as ``--guest`` names it; empty: not known.
    """

    state: str
    display: DisplayState
    process: int = 0
    started: float | None = None
    devices: tuple[DeviceState, ...] = ()
    forwards: Mapping[str, tuple[str, ...]] | None = None
    links: Mapping[str, bool] | None = None
    notes: tuple[str, ...] = ()
    waits: int = 0
    has_sound: bool | None = None
    clipboard: str | None = None
    guest: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads, of JSON's types only."""
        return {"version": VERSION, **_to_json(self)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read the state of a machine that may be run by another version of rusb.

        Raises:
            ControlError: its form is newer, or it is none.
        """
        version = value.get("version") if isinstance(value, dict) else None
        if type(version) is not int:
            raise ControlError(
                "the running machine sends its state without a version, because another"
                " version of rusb started it; use that one, or power the machine off"
                " and start it again"
            )
        if version > VERSION:
            raise ControlError(
                f"the running machine sends its state in version {version}, but this"
                f" rusb reads version {VERSION}; use the rusb that started the machine"
            )
        found: Self = _read(cls, value, "the state")
        return found


# --------------------------------------------------------- to and from JSON ----


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return value


_hints = functools.cache(typing.get_type_hints)


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return *value*, which JSON gave, as the *kind* that an annotation says."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # always X | None
        return None if value is None else _read(inner[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], item, where) for item in value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {
            key: _read(inner[1], item, f"{where}.{key}") for key, item in value.items()
        }
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    raise ControlError(f"the running machine says {value!r} for {where}")


def _read_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints, given = _hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            place = f"{where}.{field.name}"
            given[field.name] = _read(hints[field.name], value[field.name], place)
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ControlError(
                f"the running machine does not say {field.name} of {where}"
            )
    return kind(**given)
