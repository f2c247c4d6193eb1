"""Type-check the source folders as the one package they are once installed.

Static checkers run no import hooks, so in a checkout they cannot know that
``client/`` is ``rusb.client``.  Copy the folders into a throwaway tree of the
installed shape, check that, and print paths as they are in the checkout.

Usage: python tests/typecheck.py [mypy | pyright]
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("client", "server", "filters")


def main(tool: str = "mypy") -> int:
    """Run *tool* over a copy of the checkout and return its exit status."""
    options = {
        "mypy": [
            f"--config-file={ROOT}/pyproject.toml",
            f"--cache-dir={ROOT}/.mypy_cache",
        ],
        "pyright": [f"--pythonpath={sys.executable}"],
    }
    skip = shutil.ignore_patterns("__pycache__")
    with tempfile.TemporaryDirectory() as tree:
        shutil.copytree(ROOT / "rusb", Path(tree, "rusb"), ignore=skip)
        for name in MAPPED:
            shutil.copytree(ROOT / name, Path(tree, "rusb", name), ignore=skip)
        shutil.copytree(ROOT / "tests", Path(tree, "tests"), ignore=skip)
        command = [sys.executable, "-m", tool, *options[tool], "rusb", "tests"]
        done = subprocess.run(
            command,
            cwd=tree,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    report = done.stdout.replace(f"{Path(tree)}/", "")
    report = re.sub(rf"\brusb/(?=({'|'.join(MAPPED)})/)", "", report)
    sys.stdout.write(report)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
