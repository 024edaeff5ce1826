"""The nano-detector fine-tuned on a dataset's sentences: frames with the object, frames without it, and look-alikes it must let go.

A dataset says where one object of a clip is, not what else is in the frame. So a place that the network itself takes for a thing, away
from the object, counts as an answer that the sentence does not mean; whether a thing is there at all is left as it was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.models.detector import INPUT_WIDTH_PX, NanoDetector, parse
from egoray.models.nano.detector_net import DetectorNet, tokenize
from egoray.train.detector import middles
from egoray.train.losses import box_iou
from egoray.train.samples import TrainingClip


class DetectorTuning(BaseModel):
    """How samples are drawn and what their losses weigh."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    absent: Annotated[float, Field(ge=0, le=1, description="share of frames without the object, where there are any")] = 0.6
    num_sentences: Annotated[int, Field(ge=1, description="of the object's sentences, drawn for a frame")] = 4
    candidates: Annotated[int, Field(ge=1, description="the network's own most likely things, held against the sentences")] = 64
    placed: Annotated[float, Field(ge=0, description="weight of the box")] = 1.0
    meant: Annotated[float, Field(ge=0, description="weight of what the sentences mean")] = 1.0


@dataclass(slots=True)
class Asked:
    """A frame and sentences about one object.

    Attributes:
        pixels: (1, 3, h, w) uint8, `INPUT_WIDTH_PX` wide and padded to the network's 32.
        box: (4,) float32 xyxy pixels of that, or None where the object is not there.
        tokens: (Q, L, 1 + G) int64.
        unique: (Q,) bool, sentences whose words fit the object alone; the others also have a relation that is not in the words.
    """

    pixels: Tensor
    box: Tensor | None
    tokens: Tensor
    unique: Tensor


class DetectorModule(nn.Module):
    """The network with its batch statistics as they were learned: a fine-tuning sample is a single frame."""

    def __init__(self, detector: DetectorNet) -> None:
        super().__init__()
        self.detector = detector

    def train(self, mode: bool = True) -> DetectorModule:
        """Keep the normalisation in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class DetectorTuningTask:
    """Satisfies `Task`; ``net`` is trained in place on ``device``."""

    def __init__(self, net: DetectorNet, device: str | torch.device, options: DetectorTuning) -> None:
        self.module, self._device, self._options = DetectorModule(net).requires_grad_(True), device, options

    @classmethod
    def load(cls, checkpoint: str, device: str | torch.device, options: DetectorTuning) -> DetectorTuningTask:
        """From a file, or "" for the packaged weights.

        Raises:
            ModelError: if the file is of another network.
        """
        return cls(NanoDetector(checkpoint, str(device)).net, device, options)

    def prepare(self, clip: TrainingClip, rng: np.random.Generator) -> Asked:
        """See `Task.prepare`."""
        options = self._options
        number = int(rng.integers(len(clip.sentences)))
        same = [s.text for s in clip.sentences if s.object_id == clip.sentences[number].object_id]
        present = clip.present(number)
        wanted = bool(rng.random() >= options.absent)
        pool = np.flatnonzero(present == wanted)
        frame = int(rng.choice(pool if len(pool) else np.arange(len(present))))
        image = clip.image(frame)
        mask = clip.mask(number, frame, image.shape[:2])
        scale = INPUT_WIDTH_PX / image.shape[1]
        height = max(1, round(image.shape[0] * scale))
        fed = cv2.resize(image, (INPUT_WIDTH_PX, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        fed = np.pad(fed, ((0, -height % 32), (0, 0), (0, 0)), constant_values=128)
        box = None
        if mask.any():
            x, y, wide, tall = cv2.boundingRect(mask.astype(np.uint8))
            box = torch.tensor([x, y, x + wide, y + tall], dtype=torch.float32) * torch.tensor([scale, height / image.shape[0]] * 2)
        texts = [same[k] for k in rng.permutation(len(same))[: options.num_sentences]]
        asked = [parse(text) for text in texts]
        return Asked(
            torch.from_numpy(fed).permute(2, 0, 1)[None],
            box,
            tokenize([one.target for one in asked]),
            torch.tensor([not one.anchor for one in asked]),
        )

    def loss(self, sample: Asked) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`."""
        options, device, net = self._options, self._device, self.module.detector
        pixels = (sample.pixels.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        logits, boxes, looks = net(pixels)
        sentences = net.text(sample.tokens.to(device))
        flat, boxes, looks = logits.flatten(), boxes.flatten(0, 2), looks.flatten(0, 2)
        places = flat.detach().topk(min(options.candidates, len(flat))).indices
        figures: dict[str, float] = {}
        total = 0.0 * (flat.sum() + boxes.sum() + net.match(looks[:1], sentences).sum())
        if sample.box is not None:
            aim = sample.box.to(device)[None]
            cells = middles(sample.box[None], torch.zeros(1, dtype=torch.int64), tuple(logits.shape))[0].to(device)
            overlap, generalised = box_iou(boxes[cells], aim.expand(len(cells), 4))
            away = box_iou(boxes[places].detach(), aim.expand(len(places), 4))[0] < 0.3
            places = places[away]
            placed = (1 - generalised).mean() + F.softplus(-flat[cells]).mean()
            yes = -(F.logsigmoid(flat[cells])[:, None] + net.match(looks[cells], sentences)).mean()
            total = total + options.placed * placed + options.meant * yes
            figures |= {"placed": float(placed.detach()), "yes": float(yes.detach()), "iou": float(overlap.detach().mean())}
        unique = sample.unique.to(device)
        if len(places) and unique.any():
            log_p = (F.logsigmoid(flat[places])[:, None] + net.match(looks[places], sentences))[:, unique].clamp(max=-1e-4)
            p = log_p.detach().exp()
            no = (-torch.log1p(-log_p.exp()) * p).sum() / int(unique.sum())
            total = total + options.meant * no
            figures["no"] = float(no.detach())
        return total, figures

    def blocks(self) -> Sequence[nn.Module]:
        """See `Task.blocks`; too small to cut."""
        return []

    def export(self, folder: Path) -> None:
        """Write ``model.safetensors`` as `NanoDetector` reads it, in half precision."""
        weights = {name: t.detach().cpu() for name, t in self.module.detector.state_dict().items()}
        save_file(
            {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in weights.items()}, folder / "model.safetensors"
        )
