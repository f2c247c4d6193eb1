"""In CI nothing is skipped, but what needs hardware; and what is printed at the end.

Tests may run in several processes: what the end needs travels in their reports.
"""

import functools
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

for _name in ("DISPLAY", "WAYLAND_DISPLAY", "RUSB_VIEWER"):
    os.environ.pop(_name, None)  # no windows on the desktop of whoever runs the tests

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup is for whoever runs the tests: what they start heeds it, but a handler ends
    # with exec
    signal.signal(signal.SIGHUP, lambda *_: None)

gc.disable()

_LONGEST = 100
"""Characters of a parameter in the name of a test."""

_UNIT = tuple(f"tests/{layer}/" for layer in ("filters", "rdp", "rfb", "usb", "wire"))


def pytest_configure(config: pytest.Config) -> None:
    """Go through each directory once.

    pytest 9.1 does not find the fixtures of one that it comes back to, as with
    ``tests/cli/test_a.py tests/test_b.py tests/cli/test_c.py``.
    """
    config.args.sort(key=lambda arg: Path(arg.partition("::")[0]).resolve().parts)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten what names a test: it travels between the processes again and again."""
    if isinstance(val, str | bytes) and len(val) > _LONGEST:
        return f"{val[:_LONGEST]!r}..."
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the sans-IO layers, and let them come last.

    They take a millisecond each: with several processes, all are busy until the end.
    Handing them out costs more than that, so a process gets a file of them at once.
    """
    for item in items:
        if item.nodeid.startswith(_UNIT):
            item.add_marker("unit")
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.nodeid.startswith(_UNIT))


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the collector need not look at them, and
    not at all while they are found."""
    gc.freeze()
    gc.enable()


def _refuse_skipping(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report: pytest.CollectReport = yield
    _refuse_skipping(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report: pytest.TestReport = yield
    if item.get_closest_marker("hardware") is None:
        _refuse_skipping(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _one_key() -> Iterator[None]:
    """Servers in this process share an RSA key, which takes longer to make than most
    tests do; each has a certificate of its own."""
    from rusb.aio import tls  # not before coverage begins

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tls, "_new_key", functools.cache(tls._new_key))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What is written has to outlive processes, which it does, and no power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


_CELL = "cell of the matrix"


@pytest.fixture
def matrix(
    record_property: Callable[[str, object], None],
) -> Callable[[str, str, str, str], None]:
    """Note what was seen of (client, server, security) for the table at the end."""

    def note(client: str, server: str, security: str, seen: str) -> None:
        record_property(_CELL, (client, server, security, seen))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix of real peers, if any of it ran."""
    cells = [
        tuple(map(str, value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _CELL and isinstance(value, list | tuple)
    ]
    if cells:
        terminalreporter.section("real peers: client, server, security, seen")
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for cell in sorted(cells):
            words = [text.ljust(n) for text, n in zip(cell, widths, strict=True)]
            terminalreporter.write_line("  ".join(words).rstrip())
