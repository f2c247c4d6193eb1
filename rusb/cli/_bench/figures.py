"""What a run of ``rusb bench`` found: rounds become rows with medians and spread."""

import os
import platform
import ssl
import sysconfig
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from .plan import FLOOD, Job

__all__ = [
    "STEADY",
    "Figures",
    "Raw",
    "Round",
    "Row",
    "environment",
    "machine_name",
    "ratios",
]

STEADY = 1.3
"""If the best round of the raw stream is so many times the median, the wall clock
means nothing."""


@dataclass(slots=True)
class Round:
    """What one round of a job took.

    Attributes:
        count: transfers, commands or reports.
        seconds: wall clock.
        moved: bytes.
        cpu_client, cpu_server: seconds of CPU.
        lags: seconds from when each report was due until the guest had it.
        arrived: reports a second that came in time.
    """

    count: int
    seconds: float
    moved: int
    cpu_client: float
    cpu_server: float
    lags: list[float] = field(default_factory=list)
    arrived: float | None = None

    @classmethod
    def of(cls, turns: list["Round"]) -> "Round":
        """Make one of its turns."""
        return cls(
            sum(t.count for t in turns),
            sum(t.seconds for t in turns),
            sum(t.moved for t in turns),
            sum(t.cpu_client for t in turns),
            sum(t.cpu_server for t in turns),
        )

    @property
    def cpu(self) -> float:
        """CPU of both ends, for each transfer."""
        return (self.cpu_client + self.cpu_server) / self.count

    @property
    def mb_s(self) -> float:
        """Throughput."""
        return self.moved / self.seconds / 1e6


def _spread(values: list[float]) -> float | None:
    """Return how many times the least the greatest is."""
    return max(values) / min(values) if min(values) > 0 else None


@dataclass(slots=True)
class Raw:
    """The raw TLS stream in one direction."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def mb_s(self) -> float:
        """Median throughput."""
        return median(r.mb_s for r in self.rounds)

    @property
    def best_mb_s(self) -> float:
        """Throughput of the best round."""
        return max(r.mb_s for r in self.rounds)

    @property
    def cpu_s_gb(self) -> float:
        """Seconds of CPU of both ends for 10^9 bytes; median."""
        return _cpu_s_gb(self.rounds)


def _cpu_s_gb(rounds: list[Round]) -> float:
    return median((r.cpu_client + r.cpu_server) / r.moved * 1e9 for r in rounds)


def ratios(path: list[Round], raw: list[Round]) -> list[float]:
    """CPU of the path over CPU of the raw stream, in each round or turn."""
    return [_cpu_s_gb([p]) / _cpu_s_gb([r]) for p, r in zip(path, raw, strict=True)]


@dataclass(slots=True)
class Row:
    """One row of the results; None: the row has no such figure.

    Attributes:
        name, size, depth, devices, rtt_ms: as in :class:`~.plan.Job`.
        mb_s: throughput; beside a flood, that of the flood.
        ratio: throughput over that of the raw stream in the same direction.
        us, us_min: wall clock for each transfer or command, median and best round.
        p50_us, p99_us: how late reports come.
        cpu_client_us, cpu_server_us: CPU of each end for each transfer, command or
            report; medians.
        arrived: reports a second that came in time.
        spread: greatest over least round, of ``cpu``, ``us``, ``p50``, ``arrived``.
    """

    name: str
    size: int
    depth: int
    devices: int
    rtt_ms: int
    mb_s: float | None = None
    ratio: float | None = None
    us: float | None = None
    us_min: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    cpu_client_us: float | None = None
    cpu_server_us: float | None = None
    arrived: float | None = None
    spread: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, rounds: list[Round], raw: Raw | None = None) -> "Row":
        """Make a row of some rounds; *raw* is what bulk transfers are compared with."""
        row = cls(job.name, job.size, job.depth, job.devices, job.rtt_ms)
        if any(r.moved for r in rounds):
            row.mb_s = median(r.mb_s for r in rounds)
        if raw is not None and row.mb_s is not None:
            row.ratio = row.mb_s / raw.mb_s
        if job.name != FLOOD:
            row.cpu_client_us = median(r.cpu_client / r.count for r in rounds) * 1e6
            row.cpu_server_us = median(r.cpu_server / r.count for r in rounds) * 1e6
            row.spread["cpu"] = _spread([r.cpu for r in rounds])
        lags = [lag for r in rounds for lag in r.lags]
        arrived = [r.arrived for r in rounds if r.arrived is not None]
        if arrived:
            row.arrived = median(arrived)
            row.spread["arrived"] = _spread(arrived)
        elif job.name != FLOOD:
            times = [r.seconds / r.count for r in rounds]
            row.us, row.us_min = median(times) * 1e6, min(times) * 1e6
            row.spread["us"] = _spread(times)
        if len(lags) > 1:
            row.p50_us = median(lags) * 1e6
            row.p99_us = quantiles(lags, n=100, method="inclusive")[-1] * 1e6
            row.spread["p50"] = _spread([median(r.lags) for r in rounds if r.lags])
        return row

    def to_json(self) -> dict[str, Any]:
        """Everything but the spread."""
        names = [name for name in self.__slots__ if name != "spread"]
        return {name: _rounded(getattr(self, name)) for name in names}


@dataclass(slots=True)
class Figures:
    """Everything that one run found.

    Attributes:
        raw_in, raw_out: the raw TLS stream.
        path_in, path_out: the rounds of the same bytes over the whole path.
        turns_in, turns_out: CPU of the path over CPU of the raw stream, in each turn.
        ping: rounds of the raw round trip.
        load: of the machine, before the run.
        rows: the results.
        rss_client_mb, rss_server_mb: memory at most, before the storage rows.
    """

    load: float
    raw_in: Raw = field(default_factory=Raw)
    raw_out: Raw = field(default_factory=Raw)
    path_in: list[Round] = field(default_factory=list)
    path_out: list[Round] = field(default_factory=list)
    turns_in: list[float] = field(default_factory=list)
    turns_out: list[float] = field(default_factory=list)
    ping: list[Round] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    rss_client_mb: float = 0.0
    rss_server_mb: float = 0.0

    @property
    def ratio_in(self) -> float:
        """CPU of the path over CPU of the raw stream, towards the guest; median."""
        return median(self.turns_in)

    @property
    def ratio_out(self) -> float:
        """Likewise, towards the device."""
        return median(self.turns_out)

    @property
    def unsteadiness(self) -> float:
        """Best over median throughput of the raw stream, in the worse direction."""
        return max(raw.best_mb_s / raw.mb_s for raw in (self.raw_in, self.raw_out))

    @property
    def is_steady(self) -> bool:
        """Does the wall clock mean something?"""
        return self.unsteadiness <= STEADY

    @property
    def spread(self) -> dict[str, float | None]:
        """Greatest over least round of the two ratios."""
        return {
            "ratio_in": _spread(ratios(self.path_in, self.raw_in.rounds)),
            "ratio_out": _spread(ratios(self.path_out, self.raw_out.rounds)),
        }

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "v": 2,
            "ratio_in": _rounded(self.ratio_in),
            "ratio_out": _rounded(self.ratio_out),
            "raw_in_cpu_s_gb": _rounded(self.raw_in.cpu_s_gb),
            "raw_out_cpu_s_gb": _rounded(self.raw_out.cpu_s_gb),
            "yardstick_mb_s": _rounded(max(self.raw_in.mb_s, self.raw_out.mb_s)),
            "pingpong_us": _rounded(
                median(r.seconds / r.count for r in self.ping) * 1e6
            ),
            "pingpong_cpu_us": _rounded(median(r.cpu for r in self.ping) * 1e6),
            **environment(),
            "load": _rounded(self.load),
            "rows": [row.to_json() for row in self.rows],
            "rss_client_mb": _rounded(self.rss_client_mb),
            "rss_server_mb": _rounded(self.rss_server_mb),
        }


def _rounded(value: Any) -> Any:
    """Three digits after the point are more than anything here is good for."""
    return round(value, 3) if isinstance(value, float) else value


def environment() -> dict[str, Any]:
    """Name what the figures depend on, as ``--json`` does."""
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    try:
        uvloop: str | None = metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        uvloop = None
    return {
        "python": platform.python_version(),
        "build": "pgo" if "--enable-optimizations" in flags else "plain",
        "uvloop": uvloop,
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "cores": _cores(),
    }


def machine_name() -> str:
    """Name the machine, so that figures are compared with its own."""
    cpu = platform.processor()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        pass
    else:
        lines = (line.partition(":") for line in text.splitlines())
        cpu = next((v.strip() for k, _, v in lines if k.strip() == "model name"), cpu)
    return f"{platform.node()}, {cpu or platform.machine()}, {_cores()} cores"


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
