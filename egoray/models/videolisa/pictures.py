"""Frames as VideoLISA's two image models want them, and SAM's masks back in the frame's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from torch.nn import functional as F

from egoray.errors import ModelError
from egoray.models.base import Image

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of R, G, B in 0..255, as Segment Anything was trained."""


class ClipPictures:
    """Frames for CLIP: short side to its input size (bicubic), centre crop, CLIP's mean and deviation.

    Args:
        folder: holds CLIP's ``preprocessor_config.json``.
        side_px: CLIP's input.

    Raises:
        ModelError: if the file is missing, or made for another input size.
    """

    def __init__(self, folder: Path, side_px: int) -> None:
        from transformers import CLIPImageProcessorPil

        if not (folder / "preprocessor_config.json").exists():
            raise ModelError(f"{folder}: not a CLIP folder, preprocessor_config.json is missing; download the whole folder")
        try:
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"{folder}/preprocessor_config.json: cannot be read ({type(error).__name__}); download it again") from error
        crop = self._processor.crop_size
        if (crop["height"], crop["width"]) != (side_px, side_px):
            raise ModelError(f"{folder}: preprocessor_config.json crops to {crop['height']} px, but the network takes {side_px}")

    def __call__(self, images: list[Image]) -> torch.Tensor:
        """``(B, 3, side, side)`` float32."""
        return self._processor(images, return_tensors="pt")["pixel_values"]


def sam_pixels(image: Image, side: int) -> torch.Tensor:
    """``(3, side, side)`` float32 for Segment Anything: long side to ``side`` (bilinear), normalised, zeros right and below."""
    height, width = scaled(image.shape[0], image.shape[1], side)
    resized = np.asarray(PIL.fromarray(image).resize((width, height), PIL.Resampling.BILINEAR))
    pixels = (torch.from_numpy(resized.copy()).permute(2, 0, 1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return F.pad(pixels, (0, side - width, 0, side - height))


def scaled(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with the longer one ``side``, rounded half up."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def full_size(logits: torch.Tensor, size_hw: tuple[int, int], side: int) -> torch.Tensor:
    """``(N, h, w)`` logits of a padded picture as ``(N, H, W)`` of the frame: to the input's side, cut, to the frame; bilinear."""
    height, width = scaled(*size_hw, side)
    padded = F.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(padded[..., :height, :width], size_hw, mode="bilinear", align_corners=False)[0]
