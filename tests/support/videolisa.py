"""A tiny VideoLISA of random weights in the published layout, with what the released code makes of it."""

import json
import shutil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "models" / "data" / "videolisa"
SIZES = {"num_sparse": 8, "num_dense": 2}
"""The frames that the recorded outputs were made with."""
QUESTION = "Red cup."


def recorded(name):
    """The arrays of inputs.npz or outputs.npz."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def copy(folder, **config):
    """A copy of the checkpoint in ``folder``, with some keys of config.json changed; returns its path."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.npz"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    changed = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(changed))
    return folder


class ArrayClip:
    """A clip of images in memory that notes which frames were asked for."""

    def __init__(self, images):
        self.images, self.num_frames, self.read = list(images), len(images), []
        self.size_hw = self.images[0].shape[:2] if self.images else (1, 1)

    def frames(self, wanted=None):
        for frame in range(self.num_frames) if wanted is None else wanted:
            self.read.append(frame)
            yield frame, self.images[frame]

    def backward(self, start, stop):
        for frame in reversed(range(start, stop)):
            yield frame, self.images[frame]
