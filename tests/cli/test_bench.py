"""``rusb bench``: every kind of row, the schema, the history, what is compared."""

import asyncio
import contextlib
import io
import json
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from rusb.cli import bench, main
from rusb.cli._bench import processes
from rusb.cli._bench.clock import Clock, due_time
from rusb.cli._bench.figures import (
    Figures,
    Raw,
    Round,
    Row,
    machine_name,
    ratios,
)
from rusb.cli._bench.history import History, as_line
from rusb.cli._bench.measure import _Bench
from rusb.cli._bench.plan import (
    FLOOD,
    RAW_IN,
    RAW_OUT,
    STREAM_IN,
    STREAM_OUT,
    Job,
    Plan,
)
from rusb.cli._bench.processes import Far, run_far, run_relay
from rusb.cli._bench.table import print_comparison, print_figures
from rusb.cli._bench.work import control
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.errors import RusbError
from rusb.server.attachments import Attachment
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.posted import PostedReads
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.rusbserver import refusing_port
from tests.support.whole_path import Lab, machine

pytestmark = pytest.mark.xdist_group("bench")  # they share a run of the command

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "speed.md"

SHORT = Plan(
    rounds=2,
    turns=2,
    stream_bytes=1 << 20,
    large_bytes=1 << 20,
    transfers=16,
    storage_bytes=128 << 10,
    storage_seconds=0.01,
    flood_reports=4,
    reports=50,
)
NAMES = [
    *("bulk-in", "bulk-out", "rdpeusb-in", "rdpeusb-out", "control", "interrupt"),
    *("storage-read", "storage-write"),
    *("interrupt-beside-flood", "reports"),
]
TOP: dict[str, Any] = {
    **{"v": int, "ratio_in": float, "ratio_out": float, "raw_in_cpu_s_gb": float},
    **{"raw_out_cpu_s_gb": float, "yardstick_mb_s": float, "pingpong_us": float},
    **{"pingpong_cpu_us": float},
    **{"python": str, "build": str, "uvloop": (str, type(None)), "openssl": str},
    **{"cores": int, "load": float, "rows": list},
    **{"rss_client_mb": float, "rss_server_mb": float},
}
KEYS = ("name", "size", "depth", "devices", "rtt_ms")
FIGURES = [
    *("mb_s", "ratio", "us", "us_min", "p50_us", "p99_us"),
    *("cpu_client_us", "cpu_server_us", "arrived"),
]
TIMES = ("us", "us_min", "cpu_client_us", "cpu_server_us")
HAVE = {
    **dict.fromkeys(("bulk-in", "bulk-out"), {"mb_s", "ratio", *TIMES}),
    **dict.fromkeys(("rdpeusb-in", "rdpeusb-out"), {"mb_s", "ratio", *TIMES}),
    **dict.fromkeys(("control", "interrupt"), {*TIMES}),
    **dict.fromkeys(("storage-read", "storage-write"), {"mb_s", *TIMES}),
    "interrupt-beside-flood": {"mb_s", "p50_us", "p99_us", "arrived"},
    "reports": {"p50_us", "p99_us", "arrived", "cpu_client_us", "cpu_server_us"},
}
"""What is not null, by the name of the row."""


async def test_control_transfers_reach_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(30),
        lab.server,
        lab.client(EmulatedBackend(devices=[Loopback()])),
    ):
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, PostedReads)
        attachment = device.attached.device
        assert isinstance(attachment, Attachment)
        done, completed = list[UrbStatus](), attachment.completed

        def count(urb_id: int, result: UrbResult) -> None:
            done.append(result.status)
            completed(urb_id, result)

        monkeypatch.setattr(attachment, "completed", count)
        await control(Job("control", 18), [device], 20)
    assert done == [UrbStatus.OK] * 20


# ------------------------------------------------------------------ the guide ----


@dataclass
class Guided:
    """What the three commands of the guide printed and wrote."""

    tables: str
    history: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    json: dict[str, Any]
    comparison: str


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Guided:
    """The commands of the guide, with few bytes."""
    block = GUIDE.read_text("utf-8").partition("```sh\n")[2].partition("```")[0]
    commands = [line.split() for line in block.splitlines()]
    assert [words[:2] for words in commands] == [["rusb", "bench"]] * 3
    out, err = io.StringIO(), io.StringIO()
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "PLAN", SHORT)
        patch.chdir(tmp_path_factory.mktemp("bench"))
        for words in commands:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                assert main(words[1:]) == 0
            printed.append(out.getvalue())
            out.truncate(out.seek(0))
        history = [json.loads(s) for s in Path("runs.jsonl").read_text().splitlines()]
    tables, _, found = printed
    return Guided(
        tables, history, history[0]["rows"], json.loads(found), err.getvalue()
    )


def test_the_json_has_the_schema(guided: Guided) -> None:
    (line,) = deepcopy(guided.history)
    assert [line.pop(name) for name in ("time", "machine")][1] == machine_name()
    for part in (line, *line["rows"]):
        assert all(n is None or n >= 1 for n in part.pop("spread").values())
    for found in (guided.json, line):
        assert list(found) == list(TOP)
        for name, kind in TOP.items():
            assert isinstance(found[name], kind), name
        assert found["v"] == 2
        assert found["build"] in ("pgo", "plain")
        for row in found["rows"]:
            assert list(row) == [*KEYS, *FIGURES]
            assert isinstance(row["name"], str)
            assert all(isinstance(row[name], int) for name in KEYS[1:])
            numbers = {name for name in FIGURES if row[name] is not None}
            assert numbers == HAVE[row["name"]], row
            assert all(isinstance(row[name], float) for name in numbers)


def test_every_kind_of_row_is_there(guided: Guided) -> None:
    rows = guided.rows
    assert list(dict.fromkeys(row["name"] for row in rows)) == NAMES
    keys = [tuple(row[key] for key in KEYS) for row in rows]
    assert len(set(keys)) == len(keys)
    for name in ("bulk-in", "bulk-out"):
        assert {k[1:4] for k in keys if k[0] == name} == {
            *((65536, 1, 1), (65536, 8, 1), (65536, 32, 1)),
            *((512, 1, 1), (512, 8, 1), (512, 32, 1), (512, 32, 16)),
        }
    assert {k[3] for k in keys if k[0] == "control"} == {1, 16}
    for name in ("storage-read", "storage-write"):
        sizes = {(k[1], k[4]) for k in keys if k[0] == name}
        assert sizes == {(n << 10, rtt) for n in (64, 120, 1024) for rtt in (0, 20)}
    beside = {(k[2], k[3], k[4]) for k in keys if k[0] == FLOOD}
    assert beside == {(d, n, rtt) for d in (8, 32) for n in (1, 2) for rtt in (0, 20)}
    assert {k[4] for k in keys if k[0] == "reports"} == {0, 20}
    assert {k[4] for k in keys if not k[0].startswith(("s", "r", FLOOD))} == {0}
    plain = [tuple(row[key] for key in KEYS) for row in guided.json["rows"]]
    assert plain == [key for key in keys if not key[4]]


def test_a_round_trip_is_really_simulated(guided: Guided) -> None:
    """A command of a disk is one of them at least, a report half of one."""
    for row in guided.rows:
        if row["rtt_ms"] and row["name"].startswith("storage"):
            assert row["us_min"] > 19_900
        elif row["rtt_ms"]:
            assert row["p50_us"] > 9_900


def test_tables_have_all_rows(guided: Guided) -> None:
    transfers, reports = _tables(guided.tables)
    assert len(transfers) + len(reports) == len(guided.json["rows"])
    assert "ratio of the path to the raw stream, CPU: in " in guided.tables


def test_the_comparison_has_the_rows_of_both_runs(guided: Guided) -> None:
    """Beside JSON it is on standard error."""
    assert f"compared with {guided.history[0]['time']}\n" in guided.comparison
    (compared,) = _tables(guided.comparison)
    assert len(compared) == len(guided.json["rows"])


def _tables(out: str) -> list[list[str]]:
    """Return the lines of each table, without its head."""
    assert not any(line.endswith(" ") for line in out.splitlines())
    blocks = out.split("\n\n")
    found = [block.strip().splitlines()[2:] for block in blocks if "|--" in block]
    return found


# ------------------------------------------------------------------------ method ----


class NoFar:
    """Stands for a process that costs nothing."""

    async def order(self, do: str, **details: Any) -> dict[str, float]:
        return {"cpu": 0.0, "rss": 0.0}

    async def usage(self) -> dict[str, float]:
        return await self.order("nothing")


async def test_every_round_has_every_job_and_the_first_is_not_counted(
    tmp_path: Path,
) -> None:
    done: list[tuple[str, int]] = []

    async def work(job: Job, count: int) -> None:
        done.append((job.name, count))

    async with contextlib.AsyncExitStack() as stack:
        run = _Bench(
            Plan(rounds=3, transfers=80),
            *(Figures(0.0), LoopbackGuest(), 0, tmp_path, stack),
        )
        jobs = [Job("control", 18), Job("interrupt", 8)]
        found = await run._rounds(cast(Far, NoFar()), jobs, work)
    warm_up = [("control", 10), ("interrupt", 10)]
    assert done == [*warm_up, *[("control", 80), ("interrupt", 80)] * 3]
    assert [len(rounds) for rounds in found.values()] == [3, 3]


async def test_the_path_and_the_raw_stream_take_turns_side_by_side(
    tmp_path: Path,
) -> None:
    """Each pair within a moment; what comes first changes; all bytes are moved."""
    done: list[Job] = []
    moved = 0

    async def work(job: Job, count: int) -> None:
        nonlocal moved
        done.append(job)
        moved += job.size * count

    async with contextlib.AsyncExitStack() as stack:
        plan = Plan(rounds=2)
        run = _Bench(plan, Figures(0.0), LoopbackGuest(), 0, tmp_path, stack)
        found = await run._rounds(cast(Far, NoFar()), plan.streams(), work)
    pairs = list(zip(done[::2], done[1::2], strict=True))
    ways = (RAW_IN, STREAM_IN), (RAW_OUT, STREAM_OUT)
    for raw, path in ways:
        assert pairs.count((raw, path)) == pairs.count((path, raw)) == 3 * 16
        assert len(found[raw]) == len(found[path]) == 2 * 32
    assert moved == (plan.rounds * (32 << 20) + (16 << 20)) * 4  # 16 MiB to warm up


async def test_what_keeps_the_loop_busy_counts_as_lag() -> None:
    """Reports carry the time at which they were due."""
    clock = Clock()
    clock.power_on()
    before = time.monotonic()
    clock.start(3, 0.001)
    time.sleep(0.03)  # noqa: ASYNC251 - it is what keeps the loop busy
    await asyncio.sleep(0.05)
    reports = [clock.data_in(Clock.IN, 8) for _ in range(4)]
    due = [due_time(report) for report in reports if report is not None]
    assert len(due) == 3
    assert due[0] - before < 0.01
    assert [b - a for a, b in pairwise(due)] == pytest.approx([0.001, 0.001])


# ------------------------------------------------------------------------- words ----


@pytest.mark.parametrize("text", ["", "x", "20,", "-1", "1.5", "0,5001"])
def test_a_round_trip_that_is_none_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", f"--rtt={text}"])
    assert caught.value.code == 64
    assert "must be milliseconds from 0 to 5000" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--history", "--compare"])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_measured(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main(["bench", option, str(tmp_path / "gone" / "file")]) == 70
    assert time.monotonic() - start < 2
    assert "No such file or directory" in capsys.readouterr().err


def test_the_last_run_of_this_machine_is_what_counts(tmp_path: Path) -> None:
    path = tmp_path / "history"
    ours = {"v": 2, "machine": machine_name()}
    lines = [ours | {"time": "old"}, ours | {"time": "new"}, ours | {"v": 1}]
    lines.append(ours | {"machine": "another"})
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot JSON\n[]\n")
    before = History(None, path).before
    assert before is not None
    assert before["time"] == "new"
    path.write_text(json.dumps(lines[-1]))
    with pytest.raises(RusbError, match="has no run on this machine"):
        History(None, path)
    path.write_bytes(b"\xff")
    with pytest.raises(RusbError, match="was not written by --history"):
        History(None, path)


async def test_a_client_that_cannot_connect_ends_the_run(tmp_path: Path) -> None:
    async with asyncio.timeout(30), run_far(1, tmp_path) as far:
        with pytest.raises(RusbError, match="ended or is stuck"):
            await far.usage()


async def test_a_relay_to_nowhere_hangs_up() -> None:
    with refusing_port() as nowhere:
        async with asyncio.timeout(30), run_relay(nowhere, 0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


async def test_a_process_that_is_stuck_ends_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "END_SECONDS", 0.1)
    monkeypatch.setattr(processes, "ANSWER_SECONDS", 0.1)
    deaf = (sys.executable, "-c", "import time; time.sleep(600)")
    async with asyncio.timeout(30), run_far(1, tmp_path, inside=deaf) as far:
        with pytest.raises(RusbError, match="ended or is stuck"):
            await far.usage()


# ------------------------------------------------------------------------ figures ----


def rounds(*cpu: float, seconds: float = 1.0) -> list[Round]:
    """Rounds of 1000 transfers of 1 kB, with *cpu* seconds at each end."""
    return [Round(1000, seconds, 10**6, c, c) for c in cpu]


def figures(*cpu: float, raw: float = 0.01) -> Figures:
    found = Figures(0.0)
    for stream in (found.raw_in, found.raw_out):
        stream.rounds = rounds(raw, raw, raw)
    found.path_in = found.path_out = rounds(*cpu)
    found.turns_in = found.turns_out = ratios(found.path_in, found.raw_in.rounds)
    found.ping = rounds(0.01)
    found.rows = [Row.of(STREAM_IN, found.path_in, found.raw_in)]
    return found


def test_a_row_has_the_medians_of_its_rounds() -> None:
    row = Row.of(STREAM_IN, rounds(0.03, 0.01, 0.02), Raw(rounds(0.01, seconds=0.5)))
    assert (row.cpu_client_us, row.cpu_server_us) == (20.0, 20.0)
    assert (row.mb_s, row.ratio, row.us, row.us_min) == (1.0, 0.5, 1000.0, 1000.0)
    assert row.spread == {"cpu": pytest.approx(3.0), "us": 1.0}


def test_reports_have_lags_and_no_time_for_each() -> None:
    found = Round(100, 0.5, 10**6, 0, 0, [n / 1000 for n in range(101)], 200.0)
    row = Row.of(Job(FLOOD, 65536, 8, 2), [found])
    assert (row.p50_us, row.p99_us, row.arrived) == (50_000.0, 99_000.0, 200.0)
    assert (row.us, row.cpu_client_us, row.mb_s) == (None, None, 2.0)


def test_the_ratio_is_cpu_over_cpu() -> None:
    found = figures(0.02, 0.03, 0.02, raw=0.01)
    assert found.raw_in.cpu_s_gb == pytest.approx(20.0)
    assert [found.ratio_in, found.ratio_out] == pytest.approx([2.0, 2.0])


def test_the_ratio_is_the_median_of_the_turns() -> None:
    """And the spread that of the rounds, which turns make up."""
    found = Figures(0.0)
    path, raw = rounds(*[0.02] * 8, *[0.03] * 8), rounds(*[0.01] * 16)
    path[0].cpu_client, path[15].cpu_client = 9.9, 0.0
    found.turns_in = ratios(path, raw)
    assert found.ratio_in == pytest.approx(2.5)
    one = Round.of(path[8:])
    assert (one.count, one.seconds, one.moved) == (8000, 8.0, 8 * 10**6)
    assert (one.cpu_client, one.cpu_server) == pytest.approx((0.21, 0.24))


def test_a_wall_clock_that_is_not_steady_is_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = figures(0.02, 0.02, 0.02)
    print_figures(found)
    assert "not steady" not in capsys.readouterr().out
    found.raw_in.rounds = rounds(0.01, 0.01) + rounds(0.01, seconds=0.7)
    print_figures(found)
    out = capsys.readouterr().out
    assert "the best raw round is 1.4 times the median" in out
    assert "MB/s (not steady)" in out


@pytest.mark.parametrize(
    ("before", "now", "mark"),
    [
        ((0.02, 0.02, 0.02), (0.03, 0.03, 0.03), "1.50 worse"),
        ((0.03, 0.03, 0.03), (0.02, 0.02, 0.02), "0.67 better"),
        ((0.02, 0.02, 0.032), (0.03, 0.03, 0.03), "1.50"),  # the spread before
        ((0.02, 0.02, 0.02), (0.03, 0.03, 0.019), "1.50"),  # the spread now
        ((0.02, 0.02, 0.026), (0.03, 0.03, 0.024), "1.50"),  # both: each is chance
        ((0.02, 0.02, 0.02), (0.0219, 0.0219, 0.0219), "1.09"),  # too little
    ],
)
def test_only_what_is_beyond_the_spread_of_both_runs_is_marked(
    before: tuple[float, ...],
    now: tuple[float, ...],
    mark: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_comparison(as_line(figures(*before)), figures(*now))
    out = capsys.readouterr().out
    assert f"ratio_in {before[0] / 0.01:.2f} -> {now[0] / 0.01:.2f}: {mark}\n" in out
    (row,) = _tables(out)[0]
    assert [cell.strip() for cell in row.split("|")[6:8]] == [mark, "1.00"]


def test_a_machine_that_has_become_slower_is_no_change_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = figures(0.03, 0.03, 0.03)
    now.ping = [Round(10, 0.1, 0, 3e-4, 3e-4)] * 2
    before = as_line(figures(0.02, 0.02, 0.02))
    before["pingpong_cpu_us"] = 40.0
    print_comparison(before, now)
    out = capsys.readouterr().out
    assert "the machine itself: a factor of 1.50 in CPU time" in out
    assert [cell.strip() for cell in _tables(out)[0][0].split("|")[6:8]] == [
        "1.50",
        "1.00",
    ]


@pytest.mark.parametrize(
    ("factor", "mark"), [(1.9, "1.90"), (2.1, "2.10 worse")], ids=str
)
def test_a_busy_machine_hides_less_than_a_factor_of_two(
    factor: float, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = figures(*[0.02] * 3), figures(*[0.02 * factor] * 3)
    now.load = 1000.0
    for round_ in now.path_in:
        round_.seconds = 10.0
    now.rows = [Row.of(STREAM_IN, now.path_in, now.raw_in)]
    print_comparison(as_line(before), now)
    out = capsys.readouterr().out
    assert f"ratio_in 2.00 -> {2 * factor:.2f}: {mark}\n" in out
    cells = [cell.strip() for cell in _tables(out)[0][0].split("|")[6:8]]
    assert cells == [mark, "10.00"]
    assert "it is busy" in out


def test_more_reports_are_better(capsys: pytest.CaptureFixture[str]) -> None:
    def run(arrived: float) -> Figures:
        found = figures(0.02, 0.02, 0.02)
        late = [Round(100, 1.0, 0, 0.1, 0.1, [0.001, 0.002], arrived)] * 2
        found.rows = [Row.of(Job("reports", 8), late)]
        return found

    print_comparison(as_line(run(200.0)), run(1000.0))
    assert "5.00 better" in capsys.readouterr().out
