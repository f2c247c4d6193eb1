"""Type *external*: a library is asked, in a thread, not for long and not too often."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from rusb.errors import SettingsError

from .base import Decision, Judgement, Library, Request, Result
from .limits import Limits
from .places import Place, Places

__all__ = ["MAX_TEXT", "PATIENCE", "External"]

log = logging.getLogger(__name__)

MAX_TEXT = 1024
"""Characters of a user, domain or password."""

PATIENCE = 60.0
"""Seconds that a logon waits for a place, besides the library's own time."""


class External:
    """Asks *library*, after the limits of the client's address and user.

    Args:
        timeout: seconds for the library's answer; then it is a refusal.
        limits: may be shared by several machines.
        clock: monotonic seconds.
    """

    name = "External"

    def __init__(
        self,
        library: Library,
        *,
        timeout: float,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.library = library.title
        self._library = library
        self._timeout = timeout
        self._limits = Limits() if limits is None else limits
        self._clock = clock
        self._places = Places()
        self._granted: set[int] = set()

    def problem(self) -> str:
        """Say what the library knows of that."""
        return self._library.problem()

    async def check(self, request: Request) -> Decision:
        """Decide; raises nothing."""
        texts = (request.user, request.domain, request.password)
        if max(map(len, texts)) > MAX_TEXT:
            return Decision(False, "AUTH: a name or password is too long")
        address = request.address
        if not self._places.enter(address):
            return Decision(False, f"AUTH: too many logons from {address} are waiting")
        try:
            user = self._library.who(request)
            async with self._limits.turn(address, user):
                return await self._try(request, user)
        finally:
            self._places.leave(address)

    def disconnected(self, client_id: int) -> None:
        """Tell the library, if it had granted that client access."""
        if client_id in self._granted:
            self._granted.discard(client_id)
            threading.Thread(
                target=self._logoff, args=(client_id,), daemon=True
            ).start()

    def _logoff(self, client_id: int) -> None:
        try:
            self._library.logoff(client_id)
        except Exception as error:  # noqa: BLE001 - not our code; may quote secrets
            log.error("authentication library: %s at logoff", type(error).__name__)

    async def _try(self, request: Request, user: str) -> Decision:
        delay = self._limits.begin(request.address, user, self._clock())
        if isinstance(delay, str):
            return Decision(False, f"AUTH: {delay}")
        await asyncio.sleep(delay)
        try:
            async with asyncio.timeout(PATIENCE):
                place = await self._places.take(request.address)
        except TimeoutError:
            reason = (
                "AUTH: the library was not asked: earlier checks took more than"
                f" {PATIENCE:g} s"
            )
            return Decision(False, reason)
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._ask(request, place)
        except TimeoutError:
            return Decision(False, f"AUTH: no answer within {self._timeout:g} s")
        if isinstance(result, str):
            return Decision(False, f"AUTH: {result}")
        if result != Result.GRANTED:
            return Decision(False, "AUTH: external authentication: denied")
        self._limits.succeeded(request.address, user)
        self._granted.add(request.client_id)
        return Decision(True, "AUTH: external authentication: granted")

    async def _ask(self, request: Request, place: Place) -> Result | str:
        """Ask in a thread, which gives the place back when it ends, however late."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result | str] = loop.create_future()

        def finish(result: Result | str) -> None:
            place.free()
            if not answer.done():
                answer.set_result(result)

        def work() -> None:
            result = _logon(self._library, request)
            try:
                loop.call_soon_threadsafe(finish, result)
            except RuntimeError:
                log.debug("= an answer came after the end")

        try:
            # A daemon: a library that hangs must not keep the server from ending.
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            place.free()
            return "no thread for the check"
        return await answer


def _logon(library: Library, request: Request) -> Result | str:
    """Ask, with the judgement "not reacted" again if it delegates (3.2)."""
    try:
        result = library.logon(request, Judgement.NOT_ASKED)
        if result == Result.DELEGATE:
            result = library.logon(request, Judgement.NOT_REACTED)
        is_number = isinstance(result, int) and not isinstance(result, bool)
        if is_number and result in tuple(Result):
            return Result(result)
    except SettingsError as error:
        return str(error)
    except BaseException as error:  # noqa: BLE001 - not our code, SystemExit too
        # Its text may quote the password.
        return f"external authentication failed with {type(error).__name__}"
    return "external authentication: bad result code"
