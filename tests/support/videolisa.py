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
