"""``python -m rusb`` is the command ``rusb``."""

import sys

from rusb.cli import main

if __name__ == "__main__":
    sys.exit(main())
