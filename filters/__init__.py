"""Policy: USB device filters; pure functions."""

from .engine import Outcome, Routing, decide, route
from .model import Decision, Filter
from .parser import parse_offer

__all__ = [
    "Decision",
    "Filter",
    "Outcome",
    "Routing",
    "decide",
    "parse_offer",
    "route",
]
