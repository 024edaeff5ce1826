"""Grounding models that answer by rule, for what goes on around a model."""

import os
from pathlib import Path

import numpy as np

from egoray.core.masks import encode
from egoray.errors import ModelError
from egoray.models.base import Detection, Grounded


class Square:
    """Finds a square in every other frame, none for a sentence that says so; dies on a clip that a file beside it tells of."""

    name = "square"

    def __init__(self, killer=None):
        self.killer = killer

    def ground(self, clip, texts):
        height, width = clip.size_hw
        shade = [int(image.mean()) for _, image in clip.frames()]
        if self.killer and os.path.exists(self.killer) and str(shade) == Path(self.killer).read_text():
            if not self.killer.endswith("always"):
                os.unlink(self.killer)
            os._exit(1)
        mask = np.zeros((height, width), bool)
        mask[5:15, 10:30] = True
        frames = range(0, clip.num_frames, 2)
        found = Grounded(
            masks=dict.fromkeys(frames, encode(mask)),
            scores={t: 0.9 if t % 2 == 0 else 0.1 for t in range(clip.num_frames)},
            detection=(2, Detection(box=(10.0, 5.0, 30.0, 15.0), score=0.8)),
        )
        return [Grounded(masks={}, scores={}) if "nothing" in text else found for text in texts]


def square(model, device, killer=None):
    return Square(killer)


def broken(model, device):
    raise ModelError("no such weights")
