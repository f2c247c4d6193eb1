"""What is measured, how often and with how many bytes (docs/spec/speed.md)."""

from dataclasses import dataclass

__all__ = [
    "DEVICE_JOBS",
    "FLOOD",
    "FLOOD_INTERVAL",
    "MANY",
    "MANY_JOBS",
    "PEUSB_JOBS",
    "PING",
    "RAW_IN",
    "RAW_OUT",
    "REPORTS",
    "REPORT_INTERVAL",
    "STREAMS",
    "STREAM_IN",
    "STREAM_OUT",
    "Job",
    "Plan",
    "flood_jobs",
    "storage_jobs",
]

LARGE, SMALL = 65536, 512
MANY = 16
FLOOD, REPORTS = "interrupt-beside-flood", "reports"
FLOOD_INTERVAL, REPORT_INTERVAL = 0.005, 0.001
"""Seconds between two reports."""

COMMAND_SIZES = (64 << 10, 120 << 10, 1 << 20)
"""What Linux asks of a disk: by default, at USB 2 (120 KiB), at USB 3."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the results.

    Attributes:
        name: what is done.
        size: bytes of a transfer, of a storage command, or of the flood's transfers.
        depth: how many of them the guest keeps in flight.
        devices: how many devices of the client take part. ``interrupt-beside-flood``:
            2, flood and reports share a client; 1, each has a client of its own.
        rtt_ms: round trip between client and server that is simulated.
    """

    name: str
    size: int
    depth: int = 1
    devices: int = 1
    rtt_ms: int = 0


STREAM_IN, STREAM_OUT = Job("bulk-in", LARGE, 8), Job("bulk-out", LARGE, 8)
PEUSB_JOBS = Job("rdpeusb-in", LARGE, 8), Job("rdpeusb-out", LARGE, 8)
"""The same streams over MS-RDPEUSB, from a client that has no other wire."""
RAW_IN, RAW_OUT = Job("raw-in", LARGE), Job("raw-out", LARGE)
"""What the ratio is made of; the raw ones are no rows."""

STREAMS = RAW_IN, STREAM_IN, RAW_OUT, STREAM_OUT

PING = Job("ping-pong", 64)
"""A round trip of the raw stream, with a message of about a control transfer's size;
no row either."""

DEVICE_JOBS = (
    *(
        Job(name, size, depth)
        for name in ("bulk-in", "bulk-out")
        for size, depth in (
            *((LARGE, 1), (LARGE, 32)),
            *((SMALL, 1), (SMALL, 8), (SMALL, 32)),
        )
    ),
    Job("control", 18),
    Job("interrupt", 8),
)
MANY_JOBS = (
    Job("bulk-in", SMALL, 32, MANY),
    Job("bulk-out", SMALL, 32, MANY),
    Job("control", 18, 1, MANY),
)


def storage_jobs(rtt_ms: int) -> tuple[Job, ...]:
    """SCSI commands, one after another as Linux gives them."""
    return tuple(
        Job(name, size, rtt_ms=rtt_ms)
        for name in ("storage-read", "storage-write")
        for size in COMMAND_SIZES
    )


def flood_jobs(rtt_ms: int) -> tuple[Job, ...]:
    """An interrupt device beside bulk transfers, of its own client or of another."""
    return tuple(
        Job(FLOOD, LARGE, depth, devices, rtt_ms)
        for devices in (2, 1)
        for depth in (8, 32)
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything; the defaults take half a minute.

    Attributes:
        rtts_ms: round trips for the rows that are about them.
        rounds: how often everything is done; figures are medians of them.
        turns: that a round of the streams has, which the ratio is made of; even.
        stream_bytes: of a round of them, in all turns.
        large_bytes: of a round of other bulk transfers of 64 KiB.
        transfers: of a round with small transfers.
        storage_bytes: of a round of storage commands without a delay.
        storage_seconds: about what a round of one size of them takes with a delay.
        flood_reports: reports that are timed beside a flood, in a round.
        reports: of a round of the stream of 1000 a second.
    """

    rtts_ms: tuple[int, ...] = (0,)
    rounds: int = 5
    turns: int = 32
    stream_bytes: int = 32 << 20
    large_bytes: int = 16 << 20
    transfers: int = 1000
    storage_bytes: int = 8 << 20
    storage_seconds: float = 0.5
    flood_reports: int = 100
    reports: int = 1000

    def streams(self) -> tuple[Job, ...]:
        """How a round does the streams: what is compared is done within a moment, now
        the one first and now the other (docs/decisions.md)."""
        return (STREAMS + STREAMS[::-1]) * (self.turns // 2)

    def count(self, job: Job) -> int:
        """How many transfers, commands or reports a round of *job* has."""
        if job.name == FLOOD:
            return self.flood_reports
        if job.name == REPORTS:
            return self.reports
        if job.name.startswith("storage"):
            if job.rtt_ms:  # command, data, status: three round trips
                return max(2, round(self.storage_seconds * 1000 / (3 * job.rtt_ms)))
            return max(2, self.storage_bytes // job.size)
        if job in STREAMS:
            return self.stream_bytes // self.turns // job.size
        return self.large_bytes // job.size if job.size == LARGE else self.transfers
