"""Where rusb keeps what it knows between runs."""

import os
from pathlib import Path

__all__ = ["state_folder"]


def state_folder() -> Path:
    """Return the folder for what rusb keeps between runs (``RUSB_STATE`` wins)."""
    named = os.environ.get("RUSB_STATE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rusb"
