"""Images are made and copied by QEMU's ``qemu-img``."""

import shutil
import subprocess

from rusb.errors import SettingsError

__all__ = ["run_qemu_img"]


def run_qemu_img(*words: str, failed: str, after: str = "") -> None:
    """Run it, and wait for its end.

    Args:
        words: its command line.
        failed: what its own words follow if it fails: ``cannot create a.vdi``.
        after: what follows them.

    Raises:
        SettingsError: it is not installed, or it failed.
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise SettingsError(
            "qemu-img is not installed; on Debian: apt-get install qemu-utils"
        )
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise SettingsError(f"{failed}: {done.stderr.strip()}{after}")
