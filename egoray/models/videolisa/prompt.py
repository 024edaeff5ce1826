"""What VideoLISA is shown: which frames, how they are resized, and the words around them.

Source: VideoLISA's released inference and EgoMask's evaluation of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor

from egoray.models.base import Image

IMAGE = -200
"""Stands in the ids where the visual tokens go."""
PROMPT = (
    "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n<image>\nPlease segment the {query} in this image.<|end|>\n"
    "<|assistant|>\nSure, [SEG].<|end|>"
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def middles(total: int, num: int) -> list[int]:
    """The middle of each of ``num`` ranges that ``range(total)`` is cut into."""
    edges = np.linspace(0, total, num + 1).astype(int)
    return [int(a + b - 1) // 2 for a, b in pairwise(edges)]


def sparse_frames(num_frames: int, num: int) -> list[int]:
    """``num`` ascending frames of a clip; of a short one each is repeated."""
    if num_frames >= num:
        return middles(num_frames, num)
    return sorted(list(range(num_frames)) * (num // num_frames) + middles(num_frames, num % num_frames))


def dense_places(num_sparse: int, num: int) -> list[int]:
    """Which of the sparse frames are shown in full."""
    return middles(num_sparse - 1, num)


def encode(tokenizer: Any, text: str) -> Tensor:
    """(L,) int64 ids of the prompt about ``text``, with `IMAGE` for the visual tokens; one full stop at the end of the text is dropped."""
    query = text.lower().strip().removesuffix(".")
    ids: list[int] = []
    for n, part in enumerate(PROMPT.format(query=query).split("<image>")):
        piece = tokenizer(part).input_ids
        if n:
            piece = piece[1:] if piece and piece[0] == tokenizer.bos_token_id else piece
            ids.append(IMAGE)
        ids += piece
    return torch.tensor(ids)


def for_clip(image: Image, side: int) -> Tensor:
    """(3, side, side) float32: shorter side at ``side`` px, bicubic, the middle cut out, normalised."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = (side, int(height * scale)) if width <= height else (int(width * scale), side)
    resized = np.asarray(Picture.fromarray(image).resize(size, Picture.Resampling.BICUBIC))
    top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
    return _normalised(resized[top : top + side, left : left + side] * (1 / 255), CLIP_MEAN, CLIP_STD)


def for_sam(image: Image, side: int) -> tuple[Tensor, tuple[int, int]]:
    """(3, side, side) float32: longer side at ``side`` px, bilinear, normalised, zeros right and below; and the (h, w) it fills."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    fed = (int(height * scale + 0.5), int(width * scale + 0.5))
    resized = np.asarray(Picture.fromarray(image).resize(fed[::-1], Picture.Resampling.BILINEAR))
    padded = torch.zeros(3, side, side)
    padded[:, : fed[0], : fed[1]] = _normalised(resized.astype(np.float32), SAM_MEAN, SAM_STD)
    return padded, fed


def _normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    normal = (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normal).permute(2, 0, 1)
