"""Type-check ``rusb``, the tests and the tools.

The checkout has the shape of an installation: ``rusb/client`` is a symbolic link to
``client``, and so on. Paths are printed without the link, as people open them.

Usage: python tests/typecheck.py [mypy | pyright]
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = sorted(str(path) for path in (ROOT / "tools").glob("*.py"))
MAPPED = ("client", "server", "filters")


def main(tool: str = "mypy") -> int:
    """Run *tool* over the checkout and return its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", tool, "rusb", "tests", *TOOLS],
        cwd=ROOT,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    report = re.sub(rf"\brusb/(?=({'|'.join(MAPPED)})/)", "", done.stdout)
    sys.stdout.write(report)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
