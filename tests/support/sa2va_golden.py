"""The released Sa2VA code's answers for tiny weights, as a checkpoint folder: its narrow SAM 2's config in the package's own form."""

import json
import shutil
from importlib import resources
from pathlib import Path

from omegaconf import OmegaConf

GOLDEN = Path(__file__).parents[1] / "models" / "data" / "sa2va_4b"


def write_golden(folder):
    """Copy the checkpoint into ``folder``; returns it."""
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("*.npz", "tokenizer"))
    shutil.copytree(GOLDEN / "tokenizer", folder, dirs_exist_ok=True)
    narrow = json.loads((GOLDEN / "config.json").read_text())["sam2"]
    config = OmegaConf.load(str(resources.files("sam2") / "configs" / "sam2" / "sam2_hiera_l.yaml"))
    model, width, memory = config.model, narrow["d_model"], narrow["mem_dim"]
    cells = narrow["image_size"] // 16
    model.image_size = narrow["image_size"]
    for key, value in narrow["trunk"].items():
        model.image_encoder.trunk[key] = value
    neck = model.image_encoder.neck
    neck.d_model = neck.position_encoding.num_pos_feats = width
    neck.backbone_channel_list = narrow["backbone_channel_list"]
    attention = model.memory_attention
    attention.d_model, attention.num_layers = width, narrow["memory_attention"]["num_layers"]
    layer = attention.layer
    layer.d_model, layer.dim_feedforward = width, narrow["memory_attention"]["dim_feedforward"]
    for part in (layer.self_attention, layer.cross_attention):
        part.embedding_dim, part.feat_sizes = width, [cells, cells]
    layer.cross_attention.kv_in_dim = memory
    encoder = model.memory_encoder
    encoder.in_dim, encoder.out_dim, encoder.position_encoding.num_pos_feats = width, memory, memory
    encoder.mask_downsampler.embed_dim = encoder.fuser.layer.dim = width
    encoder.fuser.num_layers = narrow["fuser_layers"]
    OmegaConf.save(config, folder / "sam2.yaml")
    return folder
