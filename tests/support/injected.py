"""Make a coroutine fail at one of the places where it waits."""

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["Injection"]

_T = TypeVar("_T")


class Injection:
    """Raises *error* at the *number*-th wait of all the coroutines it is put into.

    Attributes:
        was_reached: it was raised.
    """

    def __init__(self, number: int, error: BaseException) -> None:
        self.was_reached = False
        self._left = number
        self._error = error

    async def into(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run *work* with it."""
        result: _T = await _Driven(work, self)
        return result

    def is_due(self) -> bool:
        """Count a wait: is it the one?"""
        self._left -= 1
        self.was_reached = self.was_reached or self._left == 0
        return self._left == 0

    @property
    def error(self) -> BaseException:
        return self._error


class _Driven:
    def __init__(self, work: Coroutine[Any, Any, Any], injection: Injection) -> None:
        self._work = work
        self._injection = injection

    def __await__(self) -> Generator[Any, Any, Any]:
        work, injection = self._work, self._injection
        try:
            waited_for = work.send(None)
            while True:
                if injection.is_due():
                    if waited_for is not None:  # as if nobody had waited for it
                        waited_for._asyncio_future_blocking = False
                    waited_for = work.throw(injection.error)
                    continue
                try:
                    yield waited_for
                except BaseException as error:  # noqa: BLE001 - a cancellation
                    waited_for = work.throw(error)
                else:
                    waited_for = work.send(None)
        except StopIteration as stop:
            return stop.value
