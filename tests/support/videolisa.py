"""A tiny VideoLISA of random weights in the published layout, with what the released code makes of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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


def without_tower(folder):
    """The checkpoint as it is published, without CLIP's weights, and a CLIP folder of its own beside it."""
    weights = load_file(folder / "model.safetensors")
    tower = {name.removeprefix("model.vision_tower.vision_tower."): value for name, value in weights.items() if "vision_tower" in name}
    save_file({name: value for name, value in weights.items() if "vision_tower" not in name}, folder / "model.safetensors")
    clip = (folder / "clip").rename(folder.parent / "clip")
    whole = {"model_type": "clip", "vision_config": json.loads((clip / "config.json").read_text()), "text_config": {}}
    (clip / "config.json").write_text(json.dumps(whole))
    others = {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.ones(())}
    others["vision_model.embeddings.position_ids"] = torch.arange(577)[None]
    torch.save(tower | others, clip / "pytorch_model.bin")
    return str(clip)
