"""From the published Sa2VA checkpoint to native tensors: names, fused projections taken apart, and the networks' configs.

Two bodies in one layout: Qwen2 with a LayerNorm vision tower (4B), InternLM2 with an RMSNorm tower (26B). InternLM2 is Llama with
query, key and value of each key-value group in one matrix.

Source: Sa2VA's export (training prefixes removed, LoRA merged, ``gamma`` spelt ``g_weight``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from egoray.errors import ModelError

SAM2 = "grounding_encoder.sam2_model."
_VISION = (
    (r"^embeddings\.class_embedding$", "embeddings.cls_token"),
    (r"^embeddings\.position_embedding$", "embeddings.position_embeddings"),
    (r"^embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^encoder\.layers\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.([qk]_norm)\.", r".attention.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.ls([12])$", r".lambda_\1"),
)
_PROJECTOR = {"mlp1.0.": "layer_norm.", "mlp1.1.": "linear_1.", "mlp1.3.": "linear_2."}
_INTERNLM2 = (
    (r"^model\.tok_embeddings\.", "model.embed_tokens."),
    (r"^output\.", "lm_head."),
    (r"\.attention\.wo\.", ".self_attn.o_proj."),
    (r"\.feed_forward\.w1\.", ".mlp.gate_proj."),
    (r"\.feed_forward\.w3\.", ".mlp.up_proj."),
    (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
)


def chat_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that describes the chat model; the whole of it in the published layout.

    Raises:
        ModelError: if it describes no vision tower or language model.
    """
    found = config.get("sa2va", config)
    if "vision_config" not in found or "llm_config" not in found:
        raise ModelError("config.json has no vision_config and llm_config: not a Sa2VA checkpoint")
    return found


def is_internlm2(config: Mapping[str, Any]) -> bool:
    """Whether the language model is InternLM2; see `chat_config`."""
    return "InternLM2" in " ".join(config["llm_config"].get("architectures", ())) or config["llm_config"].get("model_type") == "internlm2"


def internvl_config(config: Mapping[str, Any], image_token_id: int) -> Any:
    """The native InternVL config; see `chat_config`."""
    from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, Qwen2Config

    vision, llm = config["vision_config"], config["llm_config"]
    side, patch = vision["image_size"], vision["patch_size"]
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = {key: llm[key] for key in (*kept, "max_position_embeddings", "rms_norm_eps") if key in llm}
    rope = {"rope_type": "default", "rope_theta": llm.get("rope_theta", 10000.0)}
    if scaling := llm.get("rope_scaling"):
        rope |= {"rope_type": scaling.get("rope_type", scaling.get("type")), "factor": scaling["factor"]}
    text |= {"rope_parameters": rope, "tie_word_embeddings": False}
    native = LlamaConfig(**text, attention_bias=llm.get("bias", False)) if is_internlm2(config) else Qwen2Config(**text)
    tower = InternVLVisionConfig(
        hidden_size=vision["hidden_size"],
        num_hidden_layers=vision["num_hidden_layers"],
        num_attention_heads=vision["num_attention_heads"],
        intermediate_size=vision["intermediate_size"],
        attention_bias=vision["qkv_bias"],
        use_qk_norm=vision["qk_normalization"],
        norm_type=vision["norm_type"],
        layer_norm_eps=vision["layer_norm_eps"],
        hidden_act=vision["hidden_act"],
        image_size=(side, side),
        patch_size=(patch, patch),
        use_mean_pooling=True,  # makes the final norm an identity, as the published tower has none
    )
    return InternVLConfig(
        vision_config=tower,
        text_config=native,
        image_token_id=image_token_id,
        image_seq_length=round((side // patch * config["downsample_ratio"]) ** 2),
        downsample_ratio=config["downsample_ratio"],
        vision_feature_layer=config["select_layer"],
        tie_word_embeddings=False,
    )


def sam2_config(folder: Path) -> DictConfig:
    """The mask model's config: ``sam2.yaml`` beside the weights, else SAM 2.0 large as the package ships it; as Sa2VA runs it.

    The package's predictor would binarise what is remembered and fall back on another mask; Sa2VA does neither.
    """
    own = folder / "sam2.yaml"
    config = OmegaConf.load(str(own if own.exists() else resources.files("sam2") / "configs" / "sam2" / "sam2_hiera_l.yaml"))
    plain = {"binarize_mask_from_pts_for_mem_enc": False, "sam_mask_decoder_extra_args": {"dynamic_multimask_via_stability": False}}
    return OmegaConf.merge(config.model, plain)


def converter(config: Mapping[str, Any]) -> Callable[[str, Tensor], Mapping[str, Tensor]]:
    """From published to native names and tensors; see `chat_config`."""
    llm = config["llm_config"]
    groups = llm.get("num_key_value_heads", llm["num_attention_heads"])
    per_group = llm["num_attention_heads"] // groups
    head = llm["hidden_size"] // llm["num_attention_heads"]
    fused = is_internlm2(config)

    def convert(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        if name.startswith("vision_model."):
            return _vision(name.removeprefix("vision_model."), tensor)
        if name.startswith("language_model."):
            rest = name.removeprefix("language_model.")
            if not fused:
                return {_language(rest): tensor}
            if ".attention.wqkv." in rest:
                return _apart(rest, tensor, groups, per_group, head)
            return {_language(_renamed(rest, _INTERNLM2)): tensor}
        for published, native in _PROJECTOR.items():
            if name.startswith(published):
                return {f"vlm.model.multi_modal_projector.{native}{name.removeprefix(published)}": tensor}
        if name.startswith("text_hidden_fcs."):
            return {name.replace("text_hidden_fcs.", "seg_head.", 1): tensor}
        if name.startswith(SAM2):
            return {"sam2." + name.removeprefix(SAM2).replace(".g_weight", ".gamma"): tensor}
        raise KeyError(name)

    return convert


def joined(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """The published tensor ``name`` from the native ones that `converter` makes of it, the way back.

    Raises:
        KeyError: if a part is missing.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    ordered = [next(part for key, part in parts.items() if f".{letter}_proj." in key) for letter in "qkv"]
    if ".attn.qkv." in name:
        return torch.cat(ordered)
    llm = config["llm_config"]
    groups = llm.get("num_key_value_heads", llm["num_attention_heads"])
    head = llm["hidden_size"] // llm["num_attention_heads"]
    return torch.cat([part.unflatten(0, (groups, -1, head)) for part in ordered], dim=1).flatten(0, 2)


def converted(
    weights: Mapping[str, Tensor], convert: Callable[[str, Tensor], Mapping[str, Tensor]], where: str
) -> dict[str, dict[str, Tensor]]:
    """All tensors by part (``vlm``, ``seg_head``, ``sam2``) and native name.

    Raises:
        ModelError: for a name that is no part of the checkpoint; it is named.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        try:
            native = convert(name, tensor)
        except KeyError as error:
            raise ModelError(f"{where}: {name} has no place in this model; it is another architecture") from error
        for full, value in native.items():
            part, _, rest = full.partition(".")
            parts.setdefault(part, {})[rest] = value
    return parts


def _vision(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    where = "vlm.model.vision_tower." + _renamed(name, _VISION)
    if ".attn.qkv." in name:
        return {where.replace(".attn.qkv.", f".attention.{part}_proj."): t for part, t in zip("qkv", tensor.chunk(3), strict=True)}
    return {where: tensor}


def _language(name: str) -> str:
    return f"vlm.{name}" if name.startswith("lm_head.") else "vlm.model.language_model." + name.removeprefix("model.")


def _apart(name: str, tensor: Tensor, groups: int, per_group: int, head: int) -> Mapping[str, Tensor]:
    """Query, key and value of InternLM2's fused matrix (or bias): in each group its queries, then its key, then its value."""
    split = tensor.unflatten(0, (groups, per_group + 2, head))
    parts = {"q": split[:, :per_group], "k": split[:, per_group : per_group + 1], "v": split[:, per_group + 1 :]}
    return {_language(name.replace(".attention.wqkv.", f".self_attn.{k}_proj.")): part.flatten(0, 2) for k, part in parts.items()}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for published, native in rules:
        name = re.sub(published, native, name)
    return name
