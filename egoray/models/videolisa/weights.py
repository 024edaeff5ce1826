"""From the published VideoLISA checkpoint to native tensors: names, and the networks' sizes from its config.

Source: VideoLISA's merged checkpoint (Phi-3 with fused projections, projector, [SEG] head, SAM in the layout of its own release);
CLIP is not in it and comes from its own checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

CLIP_CHECKPOINT = "openai/clip-vit-large-patch14-336"
VIT_H = {
    "embed_dim": 1280,
    "depth": 32,
    "num_heads": 16,
    "global_attn_indexes": [7, 15, 23, 31],
    "window_size": 14,
    "out_chans": 256,
    "img_size": 1024,
    "patch_size": 16,
    "mlp_dim": 2048,
    "mask_in_chans": 16,
    "iou_head_hidden_dim": 256,
}
CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}

_SAM = (  # (published, native) beginnings and parts, applied in order
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.blocks\.", ".layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"norm_final_attn\.", "layer_norm_final_attn."),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"((?:mlps\.\d|prediction_head)\.)layers\.0\.", r"\1proj_in."),
    (r"((?:mlps\.\d|prediction_head)\.)layers\.1\.", r"\1layers.0."),
    (r"((?:mlps\.\d|prediction_head)\.)layers\.2\.", r"\1proj_out."),
)
_LLM = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)
_HEADS = {
    "model.mm_projector.": "projector.",
    "model.text_hidden_fcs.0.": "seg_head.",
    "model.vision_tower.vision_tower.vision_model.": "clip.",
    "vision_model.": "clip.",
}


def convert(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    """Native names of a published tensor; {} for one that is of no use (CLIP's text half).

    Raises:
        KeyError: for a name that is no part of the checkpoint.
    """
    for published, native in _HEADS.items():
        if name.startswith(published):
            return {} if name.endswith("position_ids") else {native + name.removeprefix(published): tensor}
    if name.startswith("model.visual_model."):
        return _sam(name.removeprefix("model.visual_model."), tensor)
    if re.match(r"(lm_head\.|model\.(embed_tokens|layers|norm)\.)", name):
        return {f"llm.{name}": tensor}
    if name.startswith(("text_model.", "text_projection.", "visual_projection.")) or name == "logit_scale":
        return {}
    raise KeyError(name)


def _sam(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    if name == "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
        shared = ("sam.shared_image_embedding.positional_embedding", "sam.prompt_encoder.shared_embedding.positional_embedding")
        return dict.fromkeys(shared, tensor)
    for published, native in _SAM:
        name = re.sub(published, native, name)
    return {f"sam.{name}": tensor}


def sizes(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Keyword arguments of the language model's, CLIP's and SAM's native configs.

    The language model's stand in the checkpoint's config, under "llm" or at its top; CLIP is ViT-L/14 at 336 px and SAM ViT-H unless
    it has a "clip" or "sam" of its own.
    """
    named = dict(config.get("llm", config))
    llm = {key: named[key] for key in _LLM if key in named}
    llm["rope_parameters"] = {"rope_type": "default", "rope_theta": named.get("rope_theta", 10000.0)}
    window = named.get("sliding_window")
    llm["sliding_window"] = None if window is None else window + 1  # transformers counts the token itself, the published code did not
    sam = VIT_H | config.get("sam", {})
    return (
        llm,
        CLIP_L | config.get("clip", {}),
        {
            "vision_config": {
                "hidden_size": sam["embed_dim"],
                "num_hidden_layers": sam["depth"],
                "num_attention_heads": sam["num_heads"],
                "global_attn_indexes": sam["global_attn_indexes"],
                "window_size": sam["window_size"],
                "output_channels": sam["out_chans"],
                "image_size": sam["img_size"],
                "patch_size": sam["patch_size"],
                "mlp_dim": 4 * sam["embed_dim"],
                "num_pos_feats": sam["out_chans"] // 2,
            },
            "prompt_encoder_config": {
                "hidden_size": sam["out_chans"],
                "image_size": sam["img_size"],
                "patch_size": sam["patch_size"],
                "mask_input_channels": sam["mask_in_chans"],
            },
            "mask_decoder_config": {
                "hidden_size": sam["out_chans"],
                "mlp_dim": sam["mlp_dim"],
                "iou_head_hidden_dim": sam["iou_head_hidden_dim"],
                "layer_norm_eps": 1e-5,  # transformers' default of 1e-6 is not the released decoder's
            },
        },
    )
