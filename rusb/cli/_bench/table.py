"""Results for people: tables that ``rich`` draws, in Markdown where nobody looks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from .figures import STEADY, Figures, Row, environment
from .history import as_line, key_of
from .plan import FLOOD, REPORTS

__all__ = ["print_comparison", "print_figures", "progress"]

NOT_STEADY = "\n(not\nsteady)"

LEAST, LEAST_BUSY = 1.1, 2.0
"""What is less is never marked, however like each other the rounds are; and where more
programs want to run than there are cores. Then the caches are others', for minutes."""

_CPU = "raw_in_cpu_s_gb", "raw_out_cpu_s_gb", "pingpong_cpu_us"
_CLOCK = "yardstick_mb_s", "pingpong_us"
"""Figures of the raw stream, which no version of rusb changes."""

_COMPARED = {
    "CPU": ("cpu", ("cpu_client_us", "cpu_server_us"), _CPU),
    "time": ("us", ("us",), _CLOCK),
    "p50": ("p50", ("p50_us",), _CLOCK),
    "arrived": ("arrived", ("arrived",), _CLOCK),
}
"""Column: name of the spread, the figures that are added up, and those of the raw
stream that say how far the machine has changed."""


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Return what says on a terminal what is being measured.

    Nothing moves: that would be work for the process that is measured.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(f"measuring {text}", refresh=True)


def _console(*, to_stderr: bool = False) -> Console:
    console = Console(stderr=to_stderr, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # nothing is to be wrapped or cut
    return console


def _table(console: Console, columns: Sequence[str]) -> Table:
    style = box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN
    padding = (0, 0) if console.is_terminal else (0, 1)
    table = Table(box=style, padding=padding, show_edge=not console.is_terminal)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        head = column if console.is_terminal else column.replace("\n", " ")
        table.add_column(head, justify="right")
    return table


def _print(console: Console, table: Table) -> None:
    """Print a table; ``rich`` fills its lines with blanks."""
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().strip("\n").splitlines()
    console.out("\n".join(["", *(line.rstrip() for line in lines)]))


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _ms(value: float | None) -> str:
    return _number(None if value is None else value / 1000, 1)


def print_figures(figures: Figures) -> None:
    """Print what a run found."""
    console = _console()
    console.print(_head(figures))
    _print(console, _transfers(console, figures))
    _print(console, _reports(console, figures))
    console.print(
        f"\npeak memory: client {figures.rss_client_mb:.0f} MB,"
        f" server {figures.rss_server_mb:.0f} MB"
    )


def _head(figures: Figures) -> str:
    found = environment()
    uvloop = f"uvloop {found['uvloop']}" if found["uvloop"] else "no uvloop"
    lines = [
        f"Python {found['python']} ({found['build']} build), {uvloop},"
        f" OpenSSL {found['openssl']}, {found['cores']} cores, load {figures.load:.1f}",
    ]
    for name, raw in (("in", figures.raw_in), ("out", figures.raw_out)):
        lines.append(
            f"raw TLS stream {name}: {raw.cpu_s_gb:.2f} CPU s/GB,"
            f" {raw.mb_s:.0f} MB/s, at best {raw.best_mb_s:.0f}"
        )
    ping = figures.to_json()["pingpong_us"]
    lines += [
        f"raw TLS round trip: {ping:.0f} us",
        f"ratio of the path to the raw stream, CPU: in {figures.ratio_in:.2f},"
        f" out {figures.ratio_out:.2f}",
    ]
    if not figures.is_steady:
        lines.append(
            f"wall clock is not steady: the best raw round is"
            f" {figures.unsteadiness:.1f} times the median, more than {STEADY}"
        )
    return "\n".join(lines)


def _transfers(console: Console, figures: Figures) -> Table:
    mark = "" if figures.is_steady else NOT_STEADY
    wall = [f"{name}{mark}" for name in ("MB/s", "of\nraw", "us", "best\nus")]
    columns = ["transfer", "bytes", "in\nflight", "devices", "RTT\nms", *wall]
    table = _table(console, [*columns, "CPU us\nclient", "CPU us\nserver"])
    for row in figures.rows:
        if row.name not in (FLOOD, REPORTS):
            table.add_row(
                *(row.name, str(row.size), str(row.depth), str(row.devices)),
                *(str(row.rtt_ms), _number(row.mb_s, 1), _number(row.ratio, 2)),
                *(_number(row.us), _number(row.us_min)),
                *(_number(row.cpu_client_us), _number(row.cpu_server_us)),
            )
    return table


def _reports(console: Console, figures: Figures) -> Table:
    columns = ["reports", "RTT\nms", "p50\nms", "p99\nms", "arrived\n/s", "flood\nMB/s"]
    table = _table(console, [*columns, "CPU us\nclient", "CPU us\nserver"])
    for row in figures.rows:
        if row.name in (FLOOD, REPORTS):
            table.add_row(
                *(_describe(row), str(row.rtt_ms), _ms(row.p50_us), _ms(row.p99_us)),
                *(_number(row.arrived), _number(row.mb_s, 1)),
                *(_number(row.cpu_client_us), _number(row.cpu_server_us)),
            )
    return table


def _describe(row: Row) -> str:
    if row.name == REPORTS:
        return "1000 a second"
    whose = "the same" if row.devices > 1 else "another"
    return f"beside {row.size >> 10} KiB x {row.depth} of {whose} client"


# ------------------------------------------------------------------ comparison ----


def print_comparison(
    before: dict[str, Any], figures: Figures, *, to_stderr: bool = False
) -> None:
    """Print each figure over that of a former run.

    One is marked that differs by more than chance explains: the spreads of both runs,
    for each may be off by its own, and what has become of the raw stream. On a busy
    machine the clock means nothing.

    Args:
        before: a line of a history.
        figures: of this run.
        to_stderr: standard output has something else.
    """
    console, now = _console(to_stderr=to_stderr), as_line(figures)
    environment = ("python", "build", "uvloop", "openssl")
    then = ", ".join(f"{k} {before[k]}" for k in environment if before[k] != now[k])
    console.print(f"\ncompared with {before['time']}" + (f" ({then})" if then else ""))
    is_busy = any(run["load"] > run["cores"] for run in (before, now))
    least = LEAST_BUSY if is_busy else LEAST
    for name in ("ratio_in", "ratio_out", "raw_in_cpu_s_gb", "raw_out_cpu_s_gb"):
        cell = _change(before, now, name, (name,), least)
        console.print(f"{name} {before[name]:.2f} -> {now[name]:.2f}: {cell}")
    machine = {
        column: max(_factor(before.get(name), now[name]) for name in names)
        for column, (_, _, names) in _COMPARED.items()
    }
    limits = {
        column: inf if is_busy and column != "CPU" else least * factor
        for column, factor in machine.items()
    }
    console.print(
        f"the machine itself: a factor of {machine['CPU']:.2f} in CPU time,"
        f" {machine['time']:.2f} by the clock; changes up to that are not marked"
        + (f"; it is busy, so none below {LEAST_BUSY:g} are, and none by the clock")
        * is_busy
    )
    keys = ["transfer", "bytes", "in\nflight", "devices", "RTT\nms"]
    table = _table(console, [*keys, *_COMPARED])
    old = {key_of(row): row for row in before["rows"]}
    for row in now["rows"]:
        if (former := old.get(key_of(row))) is not None:
            cells = [
                _change(former, row, spread, names, limits[column], machine[column])
                for column, (spread, names, _) in _COMPARED.items()
            ]
            table.add_row(*map(str, key_of(row)), *cells)
    _print(console, table)


def _change(
    before: dict[str, Any],
    now: dict[str, Any],
    spread: str,
    names: tuple[str, ...],
    least: float,
    machine: float = 1.0,
) -> str:
    """Say what one figure is, as a multiple of what it was.

    Args:
        before, now: rows, or the two runs.
        spread: its name.
        names: of the figures that are added up.
        least: what is less is not marked.
        machine: by how much that has changed.
    """
    values = [[run[name] for name in names] for run in (before, now)]
    if None in values[0] + values[1] or not sum(values[0]) or not sum(values[1]):
        return ""
    ratio = sum(values[1]) / sum(values[0])
    first, second = (run["spread"].get(spread) for run in (before, now))
    text = f"{ratio:.2f}"
    if first is None or second is None:
        return text
    if max(ratio, 1 / ratio) <= max(first * second * machine, least):
        return text
    is_better = (ratio > 1) is (spread == "arrived")
    return f"{text} {'better' if is_better else 'worse'}"


def _factor(before: float | None, now: float) -> float:
    """How many times the lesser the greater is; 1 if one of them is not known."""
    return max(before / now, now / before) if before and now else 1.0
