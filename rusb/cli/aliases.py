"""``rusb aliases``: the names that fingers know, as links to this program."""

import argparse
import sys
from pathlib import Path

from rusb.errors import SettingsError

NAMES = ("VBoxManage", "VBoxHeadless", "VBoxVRDP", "rdesktop-vrdp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="where to make the links; add it to PATH",
    )


def run(args: argparse.Namespace) -> int:
    """Make them; what is there and is no link of ours stays."""
    target = Path(sys.argv[0]).absolute()
    if target.name != "rusb":
        target = Path(sys.executable).with_name("rusb")
    if not target.exists():
        raise SettingsError(f"there is no program {target} to link to; install rusb")
    args.folder.mkdir(parents=True, exist_ok=True)
    foreign = []
    for name in NAMES:
        link = args.folder / name
        beside = target.with_name(name)
        if link.exists() and beside.exists() and link.samefile(beside):
            continue  # beside us: the installation has put it there
        if link.is_symlink() and link.resolve() == target.resolve():
            continue
        if link.exists() or link.is_symlink():
            foreign.append(str(link))
            continue
        link.symlink_to(target)
        print(link)
    if foreign:
        raise SettingsError(
            "not replaced, because they are not links to rusb: " + ", ".join(foreign)
        )
    return 0
