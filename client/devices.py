"""What may be offered: the backends' devices, filters, ids, plugging."""

import contextlib
import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import rusb.client.backends
from rusb import plugins
from rusb.errors import BackendError, DeviceBusy, DeviceGone, NoPermission, PluginError
from rusb.filters.criteria import NumberIs, Text
from rusb.filters.engine import decide
from rusb.filters.model import Filter
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo

__all__ = ["DeviceCatalog", "KnownDevice", "Standing", "load_backend"]

log = logging.getLogger(__name__)

MAX_ID = 0xFFFF  # vrdpusb.md S6: larger ids confuse the real server


def load_backend(text: str, *, force: bool = False) -> DeviceBackend:
    """Make a backend from ``NAME[:ADDRESS]`` or ``FILE.py:CLASS[:ADDRESS]``.

    CLASS is a :class:`DeviceBackend`, or an emulated device, which is then plugged in.

    Raises:
        PluginError: there is no such backend, or it is broken.
        BackendError: the backend does not understand the address.
    """
    name, _, address = text.partition(":")
    if name.endswith(".py"):
        backend = _load_file(Path(name), address)
    else:
        plugin = plugins.load(rusb.client.backends, name)
        if not (isinstance(plugin, type) and issubclass(plugin, DeviceBackend)):
            raise PluginError(f"backend {name!r} is broken: PLUGIN is {plugin!r}")
        backend = plugin(address or None)
    backend.force = force
    return backend


def _load_file(path: Path, rest: str) -> DeviceBackend:
    """Make a backend of a class in a file; *rest* is ``CLASS[:ADDRESS]``."""
    from .backends.emulated import EmulatedBackend, EmulatedDevice

    name, _, address = rest.partition(":")
    if not name:
        raise PluginError(f"no class of {path} was named; write {path}:CLASS")
    found = plugins.load_file(path, name)
    if isinstance(found, type) and issubclass(found, DeviceBackend):
        return found(address or None)
    if not (isinstance(found, type) and issubclass(found, EmulatedDevice)):
        raise PluginError(
            f"{path}: {name} is neither a DeviceBackend nor an EmulatedDevice"
        )
    if address:
        raise PluginError(f"{path}: {name} is a device and accepts no address")
    make: Callable[[], EmulatedDevice] = found
    try:
        device = make()
    except Exception as error:  # whatever people's own code does when it runs
        raise PluginError(f"{path}: {name}: {plugins.tell(error)}") from error
    return EmulatedBackend(devices=[device])


class Standing(enum.Enum):
    """Is a device offered, and if not, why not?"""

    OFFERED = "offered"
    EXCLUDED = "excluded"  # by the filters
    LEFT_OUT = "left out"  # this machine uses it itself
    WITHDRAWN = "withdrawn"  # by the program


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device that is plugged in: under which id, where it comes from."""

    info: DeviceInfo
    device: LocalDevice
    backend: DeviceBackend
    standing: Standing


def _names_one(rule: Filter) -> bool:
    """Does a rule name a device, rather than admit what happens to fit?

    It says a product, a serial number or a port, without a wildcard; a vendor alone
    has many products.
    """
    exact = (
        name
        for name, criterion in rule.criteria.items()
        if isinstance(criterion, NumberIs)
        or (isinstance(criterion, Text) and not criterion.is_pattern)
    )
    return not {"product_id", "product", "serial_number", "port"}.isdisjoint(exact)


class DeviceCatalog:
    """The devices of several backends under ids that are unique per plug event.

    Args:
        backends: where devices come from; closed by :meth:`aclose`.
        filters: a device is offered if one admits it; none: all are.
        excluded: a device is not offered if one of these admits it.
        wants_all: offer also what this machine itself uses, unless it is excluded.

    Attributes:
        known: every device that is plugged in, by id.
        offers: those that are offered.
        opened: what is in use, by id. It belongs to the catalog: a session that ends
            takes nothing with it that it does not give back.
    """

    def __init__(
        self,
        backends: Sequence[DeviceBackend],
        filters: Sequence[Filter] = (),
        *,
        excluded: Sequence[Filter] = (),
        wants_all: bool = False,
    ) -> None:
        self.known: dict[int, KnownDevice] = {}
        self.offers: dict[int, KnownDevice] = {}
        self.opened: dict[int, OpenDevice] = {}
        self._backends = tuple(backends)
        self._filters = tuple(filters)
        self._excluded = tuple(excluded)
        self._wants_all = wants_all
        self._ids: dict[tuple[int, str], int] = {}
        self._choices: dict[int, bool] = {}  # what the program wants offered, or not
        self._last_id = 0
        self._complaints: dict[int, str] = {}  # of each backend, what was said last

    async def refresh(self) -> list[DeviceInfo]:
        """Look what is plugged in now and return what is offered, ids included.

        A backend that fails keeps what it offered before (vrdpusb.md C24).
        """
        ids: dict[tuple[int, str], int] = {}
        known: dict[int, KnownDevice] = {}
        for number, backend in enumerate(self._backends):
            try:
                devices = await backend.list_devices()
            except Exception as error:  # noqa: BLE001 - hot-plug outlives any fault
                self._complain(number, error)
                devices = [
                    k.device for k in self.known.values() if k.backend is backend
                ]
            else:
                self._complaints.pop(number, None)
            for device in devices:
                key = number, device.key
                ids[key] = self._ids.get(key) or self._new_id()
                info = replace(device.info, id=ids[key])
                standing = self._standing(info.id, device)
                known[info.id] = KnownDevice(info, device, backend, standing)
        self._ids, self.known = ids, known
        self._choices = {i: c for i, c in self._choices.items() if i in known}
        self.offers = {i: k for i, k in known.items() if k.standing is Standing.OFFERED}
        return [offer.info for offer in self.offers.values()]

    def choose(self, device: int, *, is_offered: bool) -> None:
        """Offer a device, or not, whatever filters say; the next refresh does so.

        Raises:
            DeviceGone: it is not plugged in any more.
        """
        if device not in self.known:
            raise DeviceGone(f"device {device} is no longer plugged in")
        self._choices[device] = is_offered

    def _standing(self, number: int, device: LocalDevice) -> Standing:
        if number in self._choices:
            chosen = self._choices[number]
            return Standing.OFFERED if chosen else Standing.WITHDRAWN
        if not self._is_admitted(device):
            return Standing.EXCLUDED
        return Standing.LEFT_OUT if self._is_kept(device) else Standing.OFFERED

    def _is_admitted(self, device: LocalDevice) -> bool:
        if decide(self._excluded, device.info).matched:
            return False
        return not self._filters or decide(self._filters, device.info).matched

    def _is_kept(self, device: LocalDevice) -> bool:
        """Does this machine use it, and no rule name it?"""
        if device.kept is None or self._wants_all:
            return False
        naming = [rule for rule in self._filters if _names_one(rule)]
        return not decide(naming, device.info).matched

    def know_peer(self, address: str) -> None:
        """What leads to the server is used by this machine, too."""
        for backend in self._backends:
            backend.peer = address

    def _complain(self, backend: int, error: Exception) -> None:
        """Say once why a list could not be made; servers ask every two seconds."""
        if str(error) == self._complaints.get(backend):
            return
        self._complaints[backend] = str(error)
        is_bug = not isinstance(error, (BackendError, OSError))
        log.warning(
            "cannot list USB devices: %s; the previous list stays in effect",
            error,
            exc_info=error if is_bug else None,
        )

    def _new_id(self) -> int:
        taken = {*self._ids.values(), *self.opened}
        while True:
            self._last_id = self._last_id % MAX_ID + 1
            if self._last_id not in taken:
                return self._last_id

    async def open(self, device: int) -> OpenDevice:
        """Open an offered device; one that is in use is the one that is returned.

        Raises:
            DeviceGone: it is not offered any more.
            BackendError: see :meth:`DeviceBackend.open`.
        """
        if device in self.opened:
            return self.opened[device]
        offer = self.offers.get(device)
        if offer is None:
            raise DeviceGone(f"device {device} is no longer plugged in")
        opened = self.opened[device] = await offer.backend.open(offer.device)
        return opened

    async def give_back(self, device: int) -> None:
        """Give a device back to this machine; one that is not in use is left alone."""
        opened = self.opened.pop(device, None)
        if opened is not None:
            await opened.aclose()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* whenever :meth:`refresh` may find something new."""
        for backend in self._backends:
            backend.watch(changed)

    def why_nothing(self) -> BackendError | None:
        """If nothing that is offered can be used: the error that says why."""
        problems = {str(o.info): o.device.problem for o in self.offers.values()}
        if not problems or None in problems.values():
            return None
        lines = [f"\n{name}: {problem}" for name, problem in problems.items()]
        text = "none of the devices can be used:" + "".join(lines)
        is_denied = any(isinstance(p, NoPermission) for p in problems.values())
        hints = [p.hint for p in problems.values() if p is not None and p.hint]
        error = (NoPermission if is_denied else DeviceBusy)(text)
        return error.hinting(hints[0] if hints else None)

    async def aclose(self) -> None:
        """Close every backend, and with it what is in use. Idempotent.

        One that fails does not keep the others.
        """
        async with contextlib.AsyncExitStack() as rest:
            for backend in reversed(self._backends):
                rest.push_async_callback(backend.aclose)
