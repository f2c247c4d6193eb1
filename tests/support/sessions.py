"""A session of a kind of its own: what the server wants of one, and nothing else."""

from rusb.server.elsewhere import Elsewhere
from rusb.server.guests.base import AttachedDevice
from rusb.server.network import network_of
from rusb.server.sessions import Session
from rusb.server.state import ClientState, DeviceState


class PlainSession(Session):
    """Notes what it is told."""

    def __init__(
        self,
        number: int,
        address: str,
        *,
        is_logged_on: bool = False,
        in_use: int = 0,
        user: str = "anna",
        is_usb_only: bool = False,
    ) -> None:
        self.number = number
        self.network = network_of(address)
        self.address = address
        self.user, self.is_usb_only = (user, ""), is_usb_only
        self.told: list[str] = []
        self.plugged: list[AttachedDevice] = []
        self._is_logged_on = self._was_logged_on = is_logged_on
        self._is_waiting = not is_logged_on
        self._in_use = in_use

    @property
    def is_waiting(self) -> bool:
        return self._is_waiting

    @property
    def is_logged_on(self) -> bool:
        return self._is_logged_on

    @property
    def was_logged_on(self) -> bool:
        return self._was_logged_on

    @property
    def in_use(self) -> int:
        return self._in_use

    def log_on(self) -> None:
        self._is_waiting = False
        self._is_logged_on = self._was_logged_on = True

    def state(self, *, ended: float | None = None) -> ClientState:
        return ClientState(
            *(self.number, "anna", "", "desk", self.address, 0),
            is_tls=True,
            since=1.0,
            sent=10,
            received=20,
            inputs=0,
            ended=ended,
        )

    def device_states(self) -> tuple[DeviceState, ...]:
        device = DeviceState(f"u{self.number}", "", 1, 2, 3, client=self.number)
        return (device,)

    def reconsider(self) -> None:
        self.told.append("other filters")

    def lost_by_guest(self, device: AttachedDevice, why: str) -> bool:
        self.told.append(f"asked: {why}")
        return device in self.plugged

    def disconnect(self, reason: int) -> None:
        self._is_logged_on = self._is_waiting = False
        self.told.append(f"disconnected: {reason}")

    def send_on(self, to: Elsewhere, *, has_same_port: bool) -> None:
        self.told.append(f"sent on to {to}")

    def drop(self, reason: str) -> None:
        self._is_logged_on = self._is_waiting = False
        self.told.append(f"dropped: {reason}")

    async def wait_ended(self) -> None:
        self.told.append("ended")
