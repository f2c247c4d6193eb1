"""``rusb plugins``: what can be chosen for wires, backends and guests."""

import argparse
import json

import rusb.client.backends
import rusb.server.guests
import rusb.wire
from rusb import plugins

FAMILIES = {
    "wires": rusb.wire,
    "backends": rusb.client.backends,
    "guests": rusb.server.guests,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the names."""
    found = {family: plugins.names(folder) for family, folder in FAMILIES.items()}
    if args.json:
        print(json.dumps(found))
    else:
        for family, names in found.items():
            print(f"{family + ':':<10}{' '.join(names)}")
    return 0
