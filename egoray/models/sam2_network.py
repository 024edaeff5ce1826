"""SAM 2's network, run for many objects of one frame at once.

The modules and weights are the `sam2` package's; the order of work is ours. What depends on the frame alone (the first
self-attention of memory attention, the projections of the image) is computed once for all objects, and what depends on
nothing (position codes, the empty prompt) once for all.

Source: SAM 2, section 4; the arithmetic is that of `SAM2Base` in the package, whose inference path it replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor
from torch.nn import functional as F

from egoray.errors import ModelError
from egoray.models.base import Image
from egoray.models.sam2_attention import attend, rotate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLAMP = 32.0
"""Bound on mask logits that are fed back as a prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One encoded frame: ``top`` ``(1, h * w, C)`` tokens, and the decoder's finer maps, ``(1, c, 4h, 4w)`` and ``(1, c', 2h, 2w)``."""

    top: Tensor
    fine: list[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Masks of B objects: ``logits`` ``(B, 1, 4h, 4w)`` float32, ``iou`` ``(B,)``, ``pointers`` ``(B, C)``, ``score`` ``(B, 1)`` logits."""

    logits: Tensor
    iou: Tensor
    pointers: Tensor
    score: Tensor


class Network:
    """The four steps of SAM 2 on a frame: encode it, fuse it with each object's memory, decode the masks, remember them.

    Args:
        model: in eval mode on its device.
        compile: let `torch.compile` fuse the encoder, the memory encoder and the mask decoder; pays off after minutes.

    Raises:
        ModelError: if the model's config leaves out what all published SAM 2 networks have.
    """

    def __init__(self, model: SAM2Base, compile: bool = False) -> None:
        expected = model.directly_add_no_mem_embed and model.use_obj_ptrs_in_encoder and model.num_maskmem > 1
        if not expected or model.memory_temporal_stride_for_eval != 1 or not model.pred_obj_scores:
            raise ModelError("a SAM 2 config without object pointers, object scores or a memory of every frame cannot be tracked with")
        self.model, self.device = model, model.device
        self.side: int = model.image_size
        self.cells = self.side // model.backbone_stride
        self.num_masks: int = model.num_maskmem
        self.num_pointers: int = model.max_obj_ptrs_in_encoder
        self.tokens_per_pointer = model.hidden_dim // model.mem_dim
        self.hide_absent = True
        """Whether an object that scores below 0 has no mask; its pointer is replaced either way."""
        self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).view(3, 1, 1)
        with torch.inference_mode():
            neck, memory = model.image_encoder.neck, model.memory_encoder
            map_hw = (1, 1, self.cells, self.cells)
            self._position = _tokens(neck.position_encoding(torch.zeros(map_hw, device=self.device)))
            memory_position = _tokens(memory.position_encoding(torch.zeros(map_hw, device=self.device)))
            self._memory_positions = memory_position + model.maskmem_tpos_enc[:, 0]
            cross = model.memory_attention.layers[0].cross_attn_image
            self._rotation = cross.compute_cis(end_x=self.cells, end_y=self.cells).to(self.device)
            self._dense_position = model.sam_prompt_encoder.get_dense_pe()
            trunk = model.image_encoder.trunk
            position = trunk._get_pos_embed((self.side // trunk.patch_embed.proj.stride[0],) * 2)
            trunk._get_pos_embed = lambda _: position  # the package enlarges it anew for every frame
            self._no_prompt = self._embed(torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32), None)
        self._encode_images, self._decode_masks = model.forward_image, model.sam_mask_decoder
        self._fuse_memory = model.memory_encoder.fuser
        if compile:
            self._encode_images = torch.compile(model.forward_image)
            self._decode_masks = torch.compile(model.sam_mask_decoder)
            self._fuse_memory = torch.compile(model.memory_encoder.fuser)

    def encode(self, images: Sequence[Image]) -> list[Features]:
        """One encoder pass over ``(H, W, 3)`` uint8 RGB frames of one size."""
        encoded = self._encode_images((self._resized(images) - self._mean) / self._std)
        maps = encoded["backbone_fpn"][-self.model.num_feature_levels :]
        return [Features(_tokens(maps[-1][i : i + 1]), [m[i : i + 1] for m in maps[:-1]]) for i in range(len(images))]

    def unprompted(self, features: Features) -> Tensor:
        """``(1, h * w, C)``: the frame as an object without memory sees it."""
        return features.top + self.model.no_mem_embed

    def fuse(self, features: Features, masks: Tensor, places: Sequence[int], pointers: Tensor, ages: Tensor) -> Tensor:
        """``(B, h * w, C)``: the frame as each of B objects sees it, by memory attention.

        Args:
            features: of the frame.
            masks: ``(B, M, h * w, c)`` remembered masks.
            places: M places, see `Recall`.
            pointers: ``(B, P, C)`` object pointers.
            ages: ``(B, P)`` float, their ages in frames, over the largest number of frames a pointer is kept.
        """
        count, num_pointers = ages.shape
        positions = self._memory_positions[list(places)].flatten(0, 1)[None]
        split = pointers.reshape(count, num_pointers * self.tokens_per_pointer, -1)
        memory = torch.cat([masks.flatten(1, 2).to(split.dtype), split], dim=1)
        keys = memory.clone()
        keys[:, : positions.shape[1]] += positions
        if self.model.add_tpos_enc_to_obj_ptrs:
            width = self.model.hidden_dim if self.model.proj_tpos_enc_in_obj_ptrs else self.model.mem_dim
            coded = self.model.obj_ptr_tpos_proj(get_1d_sine_pe(ages, dim=width))
            keys[:, positions.shape[1] :] += coded.repeat_interleave(self.tokens_per_pointer, dim=1)
        attention = self.model.memory_attention
        x = features.top + 0.1 * self._position if attention.pos_enc_at_input else features.top
        for layer in attention.layers:
            x = layer._forward_sa(x, self._position)  # one row for all objects, until the first memory is read
            x = x + self._read(layer, x, keys, memory, positions.shape[1])
            x = x + _feed_forward(layer, x)
        return attention.norm(x)

    def decode(
        self,
        features: Features,
        fused: Tensor,
        points: tuple[Tensor, Tensor] | None,
        masks: Tensor | None,
        first: bool,
        language: Tensor | None = None,
    ) -> Decoded:
        """The best mask of each of B objects.

        Args:
            features: of the frame.
            fused: ``(B, h * w, C)`` from `fuse` or `unprompted`.
            points: ``(B, P, 2)`` float pixels of the network's image and ``(B, P)`` int labels (0, 1; 2 and 3 for the
                corners of a box), or None.
            masks: ``(B, 1, 4h, 4w)`` logits to start from, or None.
            first: whether the frame is prompted and decoded without memory.
            language: ``(B, n, C)`` tokens that a language model prompts with, or None.
        """
        count = len(fused)
        if points is None and masks is None:
            sparse, dense = (part.expand(count, *part.shape[1:]) for part in self._no_prompt)
        else:
            assert points is not None
            sparse, dense = self._embed(*points, None if masks is None else masks.clamp(-CLAMP, CLAMP))
        if language is not None:
            sparse = torch.cat([sparse, language], dim=1)
        num_points = 0 if points is None else points[1].shape[1]
        model = self.model
        several = (
            model.multimask_output_in_sam
            and (first or model.multimask_output_for_tracking)
            and model.multimask_min_pt_num <= num_points <= model.multimask_max_pt_num
        )
        logits, ious, tokens, score = self._decode_masks(
            image_embeddings=_map(fused, self.cells),
            image_pe=self._dense_position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            repeat_image=False,
            high_res_features=features.fine or None,
        )
        best = ious.argmax(-1)
        rows = torch.arange(count, device=self.device)
        masked, seen = logits[rows, best][:, None], score > 0
        pointer = model.obj_ptr_proj(tokens[rows, best] if tokens.shape[1] > 1 else tokens[:, 0])
        visible = score.sigmoid() if model.soft_no_obj_ptr else seen.to(pointer.dtype)
        if model.fixed_no_obj_ptr:
            pointer = visible * pointer
        return Decoded(
            logits=(torch.where(seen[:, None, None], masked, NO_OBJ_SCORE) if self.hide_absent else masked).float(),
            iou=ious[rows, best].float(),
            pointers=pointer + (1 - visible) * model.no_obj_ptr,
            score=score.float(),
        )

    def take_mask(self, features: Features, mask: Tensor) -> Decoded:
        """A given ``(H, W)`` bool mask as the network's own output for one object."""
        resized = mask[None, None].float()
        if mask.shape != (self.side, self.side):
            resized = F.interpolate(resized, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
            resized = (resized >= 0.5).float()
        fine = features.fine or None
        _, _, ious, logits, _, pointer, score = self.model._use_mask_as_output(_map(features.top, self.cells), fine, resized)
        return Decoded(logits.float(), ious[:, 0].float(), pointer, score.float())

    def remember(self, features: Features, decoded: Decoded, prompted: bool) -> Tensor:
        """``(B, h * w, c)`` bfloat16: the masks encoded for memory; prompted ones as they are, others by their probability."""
        model, encoder = self.model, self.model.memory_encoder
        logits = F.interpolate(decoded.logits, size=(self.side, self.side), mode="bilinear", align_corners=False)
        masks = (logits > 0).float() if prompted and model.binarize_mask_from_pts_for_mem_enc else logits.sigmoid_()
        masks = masks.mul_(model.sigmoid_scale_for_mem_enc).add_(model.sigmoid_bias_for_mem_enc)
        x = encoder.mask_downsampler(masks) + encoder.pix_feat_proj(_map(features.top, self.cells))
        x = encoder.out_proj(self._fuse_memory(x))
        if model.no_obj_embed_spatial is not None:
            x = x + ((decoded.score <= 0).to(x.dtype) @ model.no_obj_embed_spatial)[..., None, None]
        return _tokens(x).to(torch.bfloat16)

    def _read(self, layer: Any, x: Tensor, keys: Tensor, memory: Tensor, num_rotated: int) -> Tensor:
        """Cross-attention of each object's frame to its memory, ``(B, h * w, C)``."""
        cross = layer.cross_attn_image
        queries = layer.norm2(x)
        if layer.pos_enc_at_cross_attn_queries:
            queries = queries + self._position
        queries = cross.q_proj(queries)
        keys = cross.k_proj(keys if layer.pos_enc_at_cross_attn_keys else memory)
        rotate(queries, self._rotation)
        rotate(keys[:, :num_rotated].unflatten(1, (-1, len(self._rotation))), self._rotation)
        return attend(cross, queries, keys, memory)

    def _resized(self, images: Sequence[Image]) -> Tensor:
        """``(N, 3, side, side)`` in [0, 1], on the device."""
        size = (self.side, self.side)
        if self.device.type == "cpu":
            stack = torch.from_numpy(np.stack([PILImage.fromarray(image).resize(size) for image in images]))
            return stack.permute(0, 3, 1, 2).float() / 255.0
        stack = torch.from_numpy(np.stack(images)).pin_memory().to(self.device, non_blocking=True)
        return resize_like_pillow(stack.permute(0, 3, 1, 2), size)

    def _embed(self, coords: Tensor, labels: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        points = (coords.to(self.device), labels.to(self.device))
        return self.model.sam_prompt_encoder(points=points, boxes=None, masks=masks)


def resize_like_pillow(images: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, 3, H, W)`` uint8 on any device to ``(N, 3, *size)`` in [0, 1]: bicubic, antialiased, rounded to 8 bits as Pillow does."""
    scaled = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return scaled.round_().clamp_(0, 255) / 255.0


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    return layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))


def _tokens(maps: Tensor) -> Tensor:
    """``(B, C, h, w)`` to ``(B, h * w, C)``."""
    return maps.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, cells: int) -> Tensor:
    """``(B, h * w, C)`` to ``(B, C, h, w)``."""
    return tokens.transpose(1, 2).unflatten(2, (cells, cells))
