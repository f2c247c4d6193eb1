"""The vectors that tests share."""

import json
import os
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors"


def load_vectors(name: str) -> list[dict[str, Any]]:
    """Return the vectors of ``tests/vectors/NAME.json`` and every further one.

    Further ones are in the files of the folder that ``RUSB_EXTRA_VECTORS`` names that
    have the same schema: an array whose objects have the members of ours.
    """
    ours: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    folder = os.environ.get("RUSB_EXTRA_VECTORS")
    if not folder:
        return ours
    found = list(ours)
    members = set(ours[0])
    for path in sorted(Path(folder).rglob("*.json")):
        more = json.loads(path.read_text())
        if isinstance(more, list) and more and isinstance(more[0], dict):
            if set(more[0]) == members or members <= set(more[0]):
                found += [v | {"name": f"{path.stem}:{v['name']}"} for v in more]
    return found
