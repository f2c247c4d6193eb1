"""What all heads of a machine share."""

import os
import platform
import subprocess
import sys

import pytest

# In a process of its own, in which nothing large was freed before.
DRAW = """
import resource
import numpy as np
from rusb.rdp.graphics.pixels import new_frame
from rusb.rdp.graphics.updates import Damage, Encoder, Form
from rusb.server.display.screens import Screens
from rusb.server.guests.loopback import LoopbackGuest

random, frame = np.random.default_rng(1), new_frame(1280, 800)
for row in frame:
    row[:] = random.integers(0, 1 << 24, len(row)) * (random.random(len(row)) < 0.2)
damage = Damage(1280, 800)
encoding = Screens(LoopbackGuest(), "", 1, list)._encoding

def draw():
    damage.add_all()
    Encoder(frame, 1280, 800).updates(damage.take(), Form(16))

def faults():
    encoding.submit(draw).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_pictures_are_made_in_memory_that_is_there() -> None:
    """It was fetched from the kernel for each: 3000 pages of a desktop."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", DRAW], env=environment, capture_output=True, check=True
    )
    assert int(done.stdout) < 500
