"""``rusb plugins``: what can be chosen for wires, backends and guests."""

import argparse
import json
from dataclasses import asdict

import rusb.client.backends
import rusb.server.guests
import rusb.wire
from rusb import plugins
from rusb.usb.text import clean_text

FAMILIES = {
    "wires": rusb.wire,
    "backends": rusb.client.backends,
    "guests": rusb.server.guests,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the names, and what there is to say about some of them."""
    found = {family: plugins.find(folder) for family, folder in FAMILIES.items()}
    if args.json:
        print(json.dumps(_as_object(found)))
        return 0
    for family, known in found.items():
        print(f"{family + ':':<10}{' '.join(dict.fromkeys(p.name for p in known))}")
    for family, known in found.items():
        for plugin in known:
            if plugin.package != "rusb":
                owner = f"{plugin.package} {plugin.version}"
                print(clean_text(f"{family}: {plugin.name} is from {owner}"))
            if plugin.install is not None:
                text = f"needs more packages: {plugin.install}"
                print(clean_text(f"{family}: {plugin.name} {text}"))
    return 0


def _as_object(found: dict[str, list[plugins.Plugin]]) -> dict[str, object]:
    names = {
        family: list(dict.fromkeys(plugin.name for plugin in known))
        for family, known in found.items()
    }
    details = [
        {"family": family, **asdict(plugin)}
        for family, known in found.items()
        for plugin in known
    ]
    return {**names, "details": details}
