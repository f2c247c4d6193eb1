"""A test that goes through the rows of a table by itself.

For tables whose rows take less to try than a test of their own takes to set up, hand
to a process and report: two milliseconds.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

__all__ = ["Test", "each_row"]

Test = Callable[..., None]


def each_row(
    names: str | tuple[str, ...],
    table: Iterable[Any],
    *,
    ids: Callable[[Any], object] = repr,
) -> Callable[[Test], Test]:
    """Call the test with each row, as ``parametrize`` would; all fixtures are shared.

    Every row is tried; what fails has a note that names its row.

    Args:
        names: of one parameter, or of one for each part of a row.
        table: has a row at least.
        ids: how a row is named.
    """
    rows = tuple(table)
    assert rows, "the table is empty"
    several = (names,) if isinstance(names, str) else names

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*args: Any, **fixtures: Any) -> None:
            failed: list[BaseException] = []
            for row in rows:
                values = (row,) if isinstance(names, str) else row
                try:
                    test(*args, **fixtures, **dict(zip(several, values, strict=True)))
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001
                    error.add_note(f"in the row {ids(row)}")
                    failed.append(error)
            if len(failed) == 1:
                raise failed[0]
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} rows of {len(rows)}", failed)

        assert not inspect.iscoroutinefunction(test)
        signature = inspect.signature(test)
        kept = [p for p in signature.parameters.values() if p.name not in several]
        assert len(kept) == len(signature.parameters) - len(several)
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate
