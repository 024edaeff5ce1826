"""From VideoLISA's published checkpoint to its four networks: which tensor goes where, and the sizes that the shapes tell.

Source: the key layout that the released merge script of VideoLISA leaves: the state of the whole model, LoRA merged, without CLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CLIPVisionConfig, Phi3Config, SamConfig

from egoray.errors import ModelError
from egoray.models.published import EmptyWeights, Weights, fill
from egoray.models.videolisa.network import Network

PARTS = (  # published prefix -> part, prefix in the part; the first that fits
    ("model.vision_tower.vision_tower.vision_model.", "clip", ""),
    ("model.mm_projector.", "projector", ""),
    ("model.text_hidden_fcs.0.", "seg_head", ""),
    ("model.visual_model.", "sam", ""),
    ("model.embed_tokens.", "llm", "model.embed_tokens."),
    ("model.layers.", "llm", "model.layers."),
    ("model.norm.", "llm", "model.norm."),
    ("lm_head.", "llm", "lm_head."),
)
_HEAD = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_NECK = {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"}
_UPSCALE = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
_MASK_EMBED = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
SAM_NAMES = (  # Segment Anything's names -> those of transformers, in this order
    (r"^image_encoder\.blocks\.", lambda m: "vision_encoder.layers."),
    (r"^image_encoder\.neck\.(\d)\.", lambda m: f"vision_encoder.neck.{_NECK[m[1]]}."),
    (r"^image_encoder\.patch_embed\.proj\.", lambda m: "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.", lambda m: "vision_encoder."),
    (r"^prompt_encoder\.point_embeddings\.", lambda m: "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.(\d)\.", lambda m: f"prompt_encoder.mask_embed.{_MASK_EMBED[m[1]]}."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", lambda m: "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^mask_decoder\.output_upscaling\.(\d)\.", lambda m: f"mask_decoder.{_UPSCALE[m[1]]}."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d)\.)layers\.(\d)\.", lambda m: f"{m[1]}{_HEAD[m[2]]}."),
    (r"\.norm_final_attn\.", lambda m: ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", lambda m: f".layer_norm{m[1]}."),
)
POSITIONS = ("prompt_encoder.shared_embedding.positional_embedding", "shared_image_embedding.positional_embedding")
"""One published tensor, two places."""
_LLM_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
_LLM_LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")


def split(weights: Mapping[str, torch.Tensor], where: str) -> dict[str, Weights]:
    """The published tensors by part (llm, projector, seg_head, sam, and clip where the checkpoint holds it), in the parts' own names.

    Raises:
        ModelError: naming a tensor that VideoLISA does not have.
    """
    parts: dict[str, Weights] = {part: {} for _, part, _ in PARTS}
    for name, value in weights.items():
        part, own = place(name, where)
        parts[part][own] = value
    if POSITIONS[0] in parts["sam"]:
        parts["sam"][POSITIONS[1]] = parts["sam"][POSITIONS[0]]
    return parts


def place(name: str, where: str) -> tuple[str, str]:
    """The part that a published tensor belongs to, and its name in it.

    Raises:
        ModelError: if VideoLISA does not have it.
    """
    for prefix, part, inside in PARTS:
        if name.startswith(prefix):
            own = inside + name.removeprefix(prefix)
            return part, _sam_name(own, where) if part == "sam" else own
    raise ModelError(f"{where}: {name} is not a tensor of VideoLISA; give a merged checkpoint, without LoRA or other adapters")


def _sam_name(name: str, where: str) -> str:
    own = name
    for pattern, native in SAM_NAMES:
        try:
            own = re.sub(pattern, native, own)
        except KeyError as error:
            raise ModelError(
                f"{where}: model.visual_model.{name} is not a tensor of Segment Anything; it is another architecture"
            ) from error
    return own


def clip_weights(weights: Mapping[str, torch.Tensor]) -> Weights:
    """The image half of a published CLIP in the part's names; the text half is left where it is."""
    kept = {name.removeprefix("vision_model."): value for name, value in weights.items() if name.startswith("vision_model.")}
    kept.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: a buffer that older releases saved
    return kept


def llm_config(config: Mapping[str, Any], vocabulary: int, where: str) -> Phi3Config:
    """Phi-3's config from the published ``config.json``.

    A token attends to itself and the ``sliding_window`` before it; transformers counts the token itself, hence one more.

    Raises:
        ModelError: if a size is missing, or positions are scaled (only the 4k model is known).
    """
    if missing := [key for key in (*_LLM_SIZES, *_LLM_LENGTHS) if key not in config]:
        raise ModelError(f"{where}: config.json lacks {missing[0]}; it is not that of VideoLISA")
    if config.get("rope_scaling"):
        raise ModelError(f"{where}: config.json scales positions (rope_scaling); only the 4k Phi-3 is supported")
    window = config.get("sliding_window")
    return Phi3Config(
        **{key: config[key] for key in (*_LLM_SIZES, *_LLM_LENGTHS)},
        vocab_size=vocabulary,
        sliding_window=None if window is None else window + 1,
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)},
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def sam_config(weights: Mapping[str, torch.Tensor], where: str) -> SamConfig:
    """SAM's config from the shapes of its tensors (published: ViT-H at 1024 px), in the names of transformers.

    Raises:
        ModelError: if the tensors that tell the sizes are missing.
    """
    try:
        _, grid, _, width = weights["vision_encoder.pos_embed"].shape
        patch = weights["vision_encoder.patch_embed.projection.weight"].shape[-1]
        depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("vision_encoder.layers."))
        reach = [weights[f"vision_encoder.layers.{k}.attn.rel_pos_h"].shape for k in range(depth)]
        mlp = weights["vision_encoder.layers.0.mlp.lin1.weight"].shape[0]
        out = weights["vision_encoder.neck.conv1.weight"].shape[0]
        decoder_mlp = weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
        iou_width = weights["mask_decoder.iou_prediction_head.proj_in.weight"].shape[0]
        mask_channels = weights["prompt_encoder.mask_embed.conv3.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise ModelError(f"{where}: the image model is incomplete ({error}); download the checkpoint again") from error
    full = 2 * grid - 1  # a block that sees the whole image has a relative position for every offset in it
    windows = {(length + 1) // 2 for length, _ in reach if length != full}
    side = grid * patch
    vision = {
        "hidden_size": width,
        "output_channels": out,
        "num_hidden_layers": depth,
        "num_attention_heads": width // reach[0][1],
        "image_size": side,
        "patch_size": patch,
        "mlp_dim": mlp,
        "num_pos_feats": out // 2,
        "window_size": max(windows, default=0),
        "global_attn_indexes": [k for k, (length, _) in enumerate(reach) if length == full],
    }
    prompts = {
        "hidden_size": out,
        "image_size": side,
        "patch_size": patch,
        "image_embedding_size": grid,
        "mask_input_channels": mask_channels,
    }
    decoder = {"hidden_size": out, "mlp_dim": decoder_mlp, "iou_head_hidden_dim": iou_width, "layer_norm_eps": 1e-5}
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def clip_config(config: Mapping[str, Any], where: str) -> CLIPVisionConfig:
    """The image half's config from a published CLIP's ``config.json``, of the whole CLIP or of that half alone.

    Raises:
        ModelError: if a size is missing.
    """
    sizes = config.get("vision_config", config)
    wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    if missing := [key for key in wanted if key not in sizes]:
        raise ModelError(f"{where}: config.json lacks {missing[0]}; it is not that of a CLIP")
    optional = {key: sizes[key] for key in ("hidden_act", "layer_norm_eps") if key in sizes}
    return CLIPVisionConfig(**{key: sizes[key] for key in wanted}, **optional)


def build(
    parts: Mapping[str, Weights], config: Mapping[str, Any], clip: Mapping[str, Any], where: str, device: torch.device, dtype: torch.dtype
) -> Network:
    """The network with the tensors of ``parts``, every one used and none missing; SAM in float32, the rest in ``dtype``.

    Args:
        parts: from `split`, with clip.
        config: the published ``config.json``.
        clip: CLIP's ``config.json``.
        where: the checkpoint, for errors.
        device: of the network; "meta" checks names and shapes alone.
        dtype: float32 or bfloat16.

    Raises:
        ModelError: if config and tensors disagree, or a tensor is missing or has no place.
    """
    head = parts["llm"].get("lm_head.weight")
    if head is None:
        raise ModelError(f"{where}: lm_head.weight is missing; download the checkpoint again")
    with EmptyWeights():
        sizes = llm_config(config, len(head), where), clip_config(clip, where), sam_config(parts["sam"], where)
        network = Network(*sizes, select_layer=config.get("mm_vision_select_layer", -2))
    for part, module in network.named_children():
        fill(module, parts[part], f"{where} ({part})", device, torch.float32 if part == "sam" else dtype)
    return network.eval()
