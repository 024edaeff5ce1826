"""Trackers that go wrong in a chosen way, built in the actors by name; ``model`` is "grabcut" and the rest is in the environment."""

import functools
import os
import signal
import time
from pathlib import Path

import numpy as np

from egoray.core.patch import Patch
from egoray.models.base import TrackedMask


class BoxFill:
    """Each box is its own mask; runs ``before(frame, image)`` on every frame."""

    name = "boxfill"

    def __init__(self, before):
        self.before = before

    def track(self, frames, requests, backward=None):
        for frame, image in frames:
            self.before(frame, image)
            active = [r for r in requests if r.start <= frame < r.stop]
            yield frame, {r.key: TrackedMask(patch=Patch.of(np.ones(image.shape[:2], bool)), score=0.5) for r in active}


def die_once(marker: str):
    """A builder whose tracker kills its own process on the first frame it ever sees, once."""

    def before(frame, image):
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return functools.partial(_build, before)


def die_on_marked():
    """A builder whose tracker crashes its process on any clip whose first pixel is white."""

    def before(frame, image):
        if image[:4, :4].min() > 200:
            os.kill(os.getpid(), signal.SIGSEGV)

    return functools.partial(_build, before)


def slow(seconds: float):
    """A builder whose tracker sleeps at each frame."""
    return functools.partial(_build, lambda frame, image: time.sleep(seconds))


def raising(message: str):
    """A builder whose tracker raises on frame 3."""

    def before(frame, image):
        if frame == 3:
            raise ValueError(message)

    return functools.partial(_build, before)


def hungry():
    """A builder whose tracker finds no memory."""

    def before(frame, image):
        raise MemoryError("no memory left for this frame")

    return functools.partial(_build, before)


def _build(before, model, device):
    return BoxFill(before)
