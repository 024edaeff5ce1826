"""Grounding DINO and MM-Grounding-DINO from published checkpoints: a sentence and images in, scored boxes out.

Image and text meet in the first layer after the two backbones, so of the work on an image its backbone alone is shared by
several sentences; the rest runs once a sentence, for all images of a batch together.

Source: the paper's Grounded-SAM2 (sentence in lower case with a full stop, box and text threshold 0.35).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from egoray.errors import ModelError
from egoray.models.base import Detection, Image, check_texts
from egoray.models.published import checkpoint_folder


class GroundingDino:
    """Satisfies `TextDetector`.

    Args:
        checkpoint: a folder in the published layout, or a Hugging Face id, ``id@revision`` for a fixed one.
        device: a torch device; float32 on each, as the released code has it.
        threshold: a box counts when a word of the sentence answers to it with more than this.

    Raises:
        ModelError: if the checkpoint cannot be used.
    """

    name = "grounding-dino"

    def __init__(self, checkpoint: str, device: str = "cpu", threshold: float = 0.35) -> None:
        self.threshold, self._device = threshold, torch.device(device)
        self._processor, model = _load(checkpoint)
        self._model = model.to(self._device).eval()
        self._backbone = _Once(self._model.model.backbone)
        self._model.model.backbone = self._backbone

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], texts: Sequence[str]) -> list[list[list[Detection]]]:
        """See `TextDetector.detect`; all candidates above the threshold."""
        check_texts(texts)
        if not images or not texts:
            return [[] for _ in images]
        pixels = self._processor.image_processor(images=list(images), return_tensors="pt").to(self._device)
        sizes = [image.shape[:2] for image in images]
        found: list[list[list[Detection]]] = [[] for _ in images]
        try:
            for text in texts:
                words = self._processor.tokenizer([_caption(text)] * len(images), return_tensors="pt").to(self._device)
                output = self._model(**pixels, **words)
                scores = output.logits.sigmoid().amax(-1).cpu()
                for mine, score, boxes, (height, width) in zip(found, scores, output.pred_boxes.cpu(), sizes, strict=True):
                    mine.append(_detections(score, boxes, self.threshold, height, width))
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name}: {len(images)} images at once do not fit on the GPU; lower detector_batch") from error
        finally:
            self._backbone.forget()
        return found


class _Once(nn.Module):
    """A backbone that answers from memory while it is asked about the same images."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._seen: tuple[Tensor, Any] | None = None

    @property
    def position_embedding(self) -> nn.Module:
        """The backbone's own, which the model calls for the coarsest level."""
        return self.backbone.position_embedding

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list, list]:
        if self._seen is None or self._seen[0] is not pixel_values:
            self._seen = (pixel_values, self.backbone(pixel_values, pixel_mask))
        features, places = self._seen[1]
        return list(features), list(places)  # the caller appends to them

    def forget(self) -> None:
        """Free what is remembered."""
        self._seen = None


def _caption(text: str) -> str:
    lowered = text.lower().strip()
    return lowered if lowered.endswith(".") else f"{lowered}."


def _detections(score: Tensor, boxes: Tensor, threshold: float, height: int, width: int) -> list[Detection]:
    """From (Q,) scores and (Q, 4) relative centres and sizes."""
    found = []
    for k in score.argsort(descending=True, stable=True).tolist():
        if score[k] <= threshold:
            break
        x, y, w, h = boxes[k].tolist()
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        found.append(Detection(box=box, score=float(score[k])))
    return found


def _load(checkpoint: str) -> tuple[Any, nn.Module]:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder, told = checkpoint_folder(checkpoint), logging.get_verbosity()
    try:
        logging.set_verbosity_error()  # what does not fit is said below, in one line
        model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the readers of a checkpoint's files raise whatever their parsers do
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{checkpoint}: not a usable Grounding DINO ({reason}); give a folder or an id in the published layout") from error
    finally:
        logging.set_verbosity(told)
    if lost := sorted(report["missing_keys"]) or sorted(report["unexpected_keys"]):
        raise ModelError(f"{checkpoint}: the weights do not fit the network ({lost[0]}); fetch them again")
    return processor, model
