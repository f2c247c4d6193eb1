"""Policy: USB device filters; pure functions."""

from .engine import decide
from .model import Decision, Filter
from .parser import parse_offer

__all__ = [
    "Decision",
    "Filter",
    "decide",
    "parse_offer",
]
