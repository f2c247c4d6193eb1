"""Policy: USB device filters; pure functions."""

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Any

    from .engine import decide
    from .model import Decision, Filter
    from .parser import parse_offer

__all__ = [
    "Decision",
    "Filter",
    "decide",
    "parse_offer",
]

_HOMES = {
    "Decision": "model",
    "Filter": "model",
    "decide": "engine",
    "parse_offer": "parser",
}


def __getattr__(name: str) -> "Any":
    """Import what is asked for: who only reads settings decides nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what can be asked for, too: for ``help()`` and completion."""
    return sorted({*globals(), *__all__})
