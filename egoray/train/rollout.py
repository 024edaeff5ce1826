"""SAM 2's own network run over a clip as at inference, with gradients: prompts on the first frame, memory from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(slots=True, kw_only=True)
class Prompted:
    """B clips of T frames, N targets in all.

    Attributes:
        pixels: (B, T, 3, S, S) uint8.
        clip: (N,) int64, the clip of each target.
        masks: (N, T, S, S) uint8, 1 where the target shows.
        prompts: (N, 2, 2) float32 xy points on the first frame, and (N, 2) int32 ``labels``: a box's corners are 2 and 3, a click 1 and -1.
        by_mask: the first frame's mask is given instead of the prompts.
        forced: share of the memories that are given the true mask.
    """

    pixels: Tensor
    clip: Tensor
    masks: Tensor
    prompts: Tensor
    labels: Tensor
    by_mask: bool
    forced: float


@dataclass(slots=True)
class Seen:
    """What the network says of one frame of a rollout, N targets.

    Attributes:
        logits: (N, M, S/4, S/4) logits of its M candidate masks.
        score: (N,) logit that the target shows.
        iou: (N, M) how good the network thinks each candidate is.
        fused: (N, C, S/16, S/16) features after memory attention.
    """

    logits: Tensor
    score: Tensor
    iou: Tensor
    fused: Tensor


def resize(sam2: nn.Module, size: int) -> None:
    """Take frames of this many pixels a side; the weights fit any multiple of 32."""
    top = size // 16
    sam2.image_size, sam2.sam_image_embedding_size = size, top
    encoder = sam2.sam_prompt_encoder
    encoder.image_embedding_size, encoder.input_image_size, encoder.mask_input_size = (top, top), (size, size), (4 * top, 4 * top)


def encode(sam2: nn.Module, pixels: Tensor) -> dict[str, Any]:
    """The image encoder's output for (B, T, 3, S, S) uint8 frames; "finest" is its finest level before the decoder's projection."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
    encoded = sam2.image_encoder((pixels.flatten(0, 1).float() / 255 - mean) / std)
    encoded["finest"] = encoded["backbone_fpn"][0]
    for level, project in enumerate((sam2.sam_mask_decoder.conv_s0, sam2.sam_mask_decoder.conv_s1)):
        encoded["backbone_fpn"][level] = project(encoded["backbone_fpn"][level])
    return encoded


def follow(sam2: nn.Module, encoded: dict[str, Any], batch: Prompted, device: str | torch.device) -> list[Seen]:
    """Follow the batch's targets from their prompts, frame by frame; a frame whose mask was given is not in the list.

    A memory holds the true mask with the batch's ``forced`` chance; with chance 0 everything is as at inference.
    """
    num_frames = batch.pixels.shape[1]
    feats, places, sizes = sam2._prepare_backbone_features(encoded)[1:]
    masks, clip = batch.masks.to(device), batch.clip.to(device)
    points = {"point_coords": batch.prompts.to(device), "point_labels": batch.labels.to(device)}
    raw: dict[str, Any] = {}
    hook = sam2.sam_mask_decoder.register_forward_hook(
        lambda _, __, out: raw.update(zip(("masks", "ious", "tokens", "score"), out, strict=True))
    )
    seen, kept = [], {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    try:
        for t in range(num_frames):
            rows = clip * num_frames + t
            mine, where = [f[:, rows] for f in feats], [p[:, rows] for p in places]
            first = t == 0
            given = masks[:, :1].float() if first and batch.by_mask else None
            _, outputs, _, fused = sam2._track_step(
                t, first, mine, where, sizes, points if first and given is None else None, given, kept, max(num_frames, 7), False, None
            )
            truly = masks[:, t].flatten(1).any(1).bool()
            force = torch.full_like(truly, bool(torch.rand(()) < batch.forced))
            high, pointer, score = _remembered(sam2, outputs, raw, masks[:, t], truly, force)
            if given is None:
                seen.append(Seen(raw["masks"].float(), raw["score"][:, 0].float(), raw["ious"].float(), fused))
            if t + 1 < num_frames:
                features, places_of = sam2._encode_new_memory(mine, sizes, high, score, first)
                memory = {"maskmem_features": features, "maskmem_pos_enc": places_of, "obj_ptr": pointer}
                kept["cond_frame_outputs" if first else "non_cond_frame_outputs"][t] = memory
    finally:
        hook.remove()
    return seen


def _remembered(
    sam2: nn.Module, outputs: tuple, raw: dict[str, Any], mask: Tensor, truly: Tensor, force: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The (N, 1, S, S) mask logits, (N, C) pointer and (N, 1) score that go into the memory: the network's own, or the truth."""
    high, pointer, score = outputs[4].float(), outputs[5], outputs[6]
    told = truly[:, None].to(pointer.dtype)
    known = sam2.obj_ptr_proj(raw["tokens"][:, 0]) * told + sam2.no_obj_ptr * (1 - told)
    high = torch.where(force[:, None, None, None], 20 * mask[:, None].float() - 10, high)
    pointer = torch.where(force[:, None], known, pointer)
    return high, pointer, torch.where(force[:, None], 20 * told.to(score.dtype) - 10, score)
