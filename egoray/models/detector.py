"""The nano-detector: a sentence and an image in, scored boxes out, on one CPU core.

Attributes (colour, material, kind, print, size, "in the hand") are matched by the network; relations between two things ("left of the
blue mug", "next to ...") are read from the sentence and measured on the boxes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from egoray.errors import ModelError
from egoray.models.base import Detection, Image, check_texts
from egoray.models.nano.detector_net import DetectorNet, tokenize

INPUT_WIDTH_PX = 640
"""Frames are fed at this width, whatever their own."""

THRESHOLD = 0.3
"""Of the packaged weights: about 5 % false alarms on rooms like those of training, by `benchmarks/nano.py --calibrate`."""

_CANDIDATES, _SAME_IOU, _MOST = 96, 0.5, 10
_RELATION = re.compile(
    r"^(?P<target>.+?),?\s+(?:that is |standing |lying )?(?:to the |on the )?"
    r"(?P<relation>left of|right of|above|behind|below|in front of|next to|beside|near)\s+(?P<anchor>.+)$"
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A sentence of the form target, relation, anchor; the last two are empty for one without a relation."""

    target: str
    relation: str = ""
    anchor: str = ""


def parse(text: str) -> Parsed:
    """Cut a sentence at its relation between two things: "the mug left of the red box", "a key next to a lock"."""
    match = _RELATION.match(" ".join(text.lower().split()).rstrip("."))
    return Parsed(**match.groupdict()) if match else Parsed(text)


class NanoDetector:
    """Satisfies `TextDetector`.

    Args:
        checkpoint: a ``.safetensors`` file, or a ``.pt`` as training leaves it; "" for the weights that come with the package.
        device: a torch device.
        threshold: see `TextDetector`.

    Raises:
        ModelError: if the file is missing or holds another network.
    """

    name = "nano-detector"

    def __init__(self, checkpoint: str = "", device: str = "cpu", threshold: float = THRESHOLD) -> None:
        checkpoint = checkpoint or str(resources.files("egoray.models.nano") / "detector.safetensors")
        self.threshold, self._device = threshold, torch.device(device)
        net = DetectorNet()
        try:
            net.load_state_dict(_read(checkpoint))
        except RuntimeError as error:
            raise ModelError(f"{checkpoint}: not the weights of a nano-detector; train one, or name another file") from error
        self.net = net.float().to(self._device, memory_format=torch.channels_last).eval()

    @classmethod
    def of(cls, net: DetectorNet, device: str = "cpu") -> NanoDetector:
        """A detector around a network that is in memory, as in the trials of training."""
        made = cls.__new__(cls)
        made.threshold, made._device, made.net = THRESHOLD, torch.device(device), net.eval()
        return made

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], texts: Sequence[str]) -> list[list[list[Detection]]]:
        """See `TextDetector.detect`; at most 10 candidates a sentence, none of them overlapping another by half."""
        check_texts(texts)
        return [self._found(image, texts) for image in images] if texts else [[] for _ in images]

    def _found(self, image: Image, texts: Sequence[str]) -> list[list[Detection]]:
        asked = [parse(text) for text in texts]
        phrases = list(dict.fromkeys(phrase for one in asked for phrase in (one.target, one.anchor) if phrase))
        boxes, found = self._candidates(image, phrases)
        overlap = _overlaps(boxes)
        results = []
        for one in asked:
            score = found[:, phrases.index(one.target)]
            if one.anchor:
                score = score * _related(one.relation, boxes, found[:, phrases.index(one.anchor)], overlap)
            results.append([Detection(box=tuple(map(float, boxes[k])), score=float(score[k])) for k in _distinct(score, overlap)])
        return results

    def _candidates(self, image: Image, phrases: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(K, 4) boxes in the image's pixels and (K, P) how likely each is what the phrase names."""
        height, width = image.shape[:2]
        scale = INPUT_WIDTH_PX / width
        fed = cv2.resize(
            image, (INPUT_WIDTH_PX, max(1, round(height * scale))), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        pixels = torch.from_numpy(fed).to(self._device).permute(2, 0, 1)[None].float() / 255
        pixels = F.pad(pixels, (0, 0, 0, -fed.shape[0] % 32), value=0.5).contiguous(memory_format=torch.channels_last)
        logits, boxes, looks = (part[0].flatten(0, 1) for part in self.net(pixels))
        best = logits.topk(min(_CANDIDATES, len(logits))).indices
        log_p = F.logsigmoid(logits[best])[:, None] + self.net.match(looks[best], self.net.text(tokenize(phrases).to(self._device)))
        kept = boxes[best].cpu().numpy() / [scale, fed.shape[0] / height, scale, fed.shape[0] / height]
        kept = np.stack([kept[:, k].clip(0, (width, height)[k % 2]) for k in range(4)], axis=1)
        return kept.astype(np.float32), log_p.exp().cpu().numpy()


def _read(checkpoint: str) -> dict[str, torch.Tensor]:
    path = Path(checkpoint)
    if not path.exists():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        return torch.load(path, map_location="cpu", weights_only=True)["model"]
    except Exception as error:
        raise ModelError(f"{path}: not a checkpoint of a nano-detector ({type(error).__name__})") from error


def _overlaps(boxes: NDArray) -> NDArray[np.float32]:
    """(K, K) IoU."""
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = np.prod((high - low).clip(min=0), axis=-1)
    area = np.prod((boxes[:, 2:] - boxes[:, :2]).clip(min=0), axis=-1)
    return inter / np.maximum(area[:, None] + area[None] - inter, 1e-6)


def _distinct(score: NDArray, overlap: NDArray) -> list[int]:
    """The best of each heap of overlapping candidates, best first."""
    kept: list[int] = []
    for k in np.argsort(-score, kind="stable"):
        if len(kept) == _MOST:
            break
        if not kept or overlap[k, kept].max() < _SAME_IOU:
            kept.append(int(k))
    return kept


def _related(relation: str, boxes: NDArray, anchor: NDArray, overlap: NDArray) -> NDArray[np.float32]:
    """(K,) how likely each box stands in the relation to the anchor that fits best; an anchor is another thing."""
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).clip(min=1)
    apart = (middle[None] - middle[:, None]) / ((size[:, None] + size[None]) / 2)[..., None]  # from target to anchor, in sizes
    right, down = apart[..., 0], apart[..., 1]
    measure = {
        "left of": right - 0.2,
        "right of": -right - 0.2,
        **dict.fromkeys(("above", "behind"), down - 0.2),
        **dict.fromkeys(("below", "in front of"), -down - 0.2),
        **dict.fromkeys(("next to", "beside", "near"), 2.2 - np.hypot(right, down)),
    }[relation]
    likely = 1 / (1 + np.exp(-8 * np.clip(measure, -4, 4)))
    return ((likely * anchor[None]) * (overlap < _SAME_IOU)).max(axis=1)
