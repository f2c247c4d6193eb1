"""``rusb version``: which rusb this is."""

import argparse

import rusb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(f"rusb {rusb.__version__}")
    return 0
