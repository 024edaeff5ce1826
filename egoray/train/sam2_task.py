"""SAM 2 fine-tuned on masklets: clips of an object with absences in them, a prompt where it first shows, the rest from memory.

Trains any SAM 2 or 2.1, published or nano; what it leaves is a checkpoint that `annotate --model sam2:FILE` takes, so that the next
round of annotation has a better tracker. Source: SAM 2's training (Ravi et al. 2024): focal 20, dice 1, IoU 1, object score 1, the
loss of several candidate masks on the best alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.errors import FormatError
from egoray.models.sam2_weights import load_with_config, write_random_checkpoint
from egoray.train.losses import dice, focal
from egoray.train.rollout import Prompted, Seen, encode, follow, resize
from egoray.train.samples import TrainingClip
from egoray.train.tracker import draw_prompts

Trained = Literal["image_encoder", "memory", "mask_decoder", "prompt_encoder"]


class Sam2Training(BaseModel):
    """What is trained and how samples are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained: Annotated[tuple[Trained, ...], Field(description="parts of the network", min_length=1)] = (
        "image_encoder",
        "memory",
        "mask_decoder",
        "prompt_encoder",
    )
    num_frames: Annotated[int, Field(ge=1, description="frames of a clip")] = 8
    side_px: Annotated[int | None, Field(description="square that frames are fed as; default: the network's own")] = None
    click: Annotated[float, Field(ge=0, le=1, description="chance of a click as the prompt")] = 0.25
    mask: Annotated[float, Field(ge=0, le=1, description="chance of the true mask as the prompt; otherwise a box")] = 0.2
    forced: Annotated[float, Field(ge=0, le=1, description="share of memories that hold the true mask")] = 0.0
    max_gap: Annotated[int, Field(ge=1, description="frames of the set between two of a clip, at most")] = 2
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    score: float = 1.0


class Sam2Task:
    """Satisfies `Task`.

    Args:
        module: the network.
        config: it was built with, an OmegaConf tree with ``model``.
        device: where it is.
        options: see there.
    """

    def __init__(self, module: nn.Module, config: Any, device: str | torch.device, options: Sam2Training) -> None:
        self.module, self._config, self._device, self._options = module, config, device, options
        self._side = options.side_px or int(module.image_size)
        resize(module, self._side)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(_part(name) in options.trained)

    @classmethod
    def load(cls, checkpoint: str, device: str | torch.device, options: Sam2Training, folder: Path) -> Sam2Task:
        """From a published id, a file, or "nano": a fresh network of 4 M parameters, drawn from torch's generator state into ``folder``.

        Raises:
            ModelError: if the checkpoint cannot be used.
        """
        if checkpoint == "nano":
            checkpoint = write_random_checkpoint(str(folder / "nano.pt"), seed=int(torch.initial_seed() % 2**31))
        module, config = load_with_config(checkpoint, str(device))
        return cls(module, config, device, options)

    def prepare(self, clip: TrainingClip, rng: np.random.Generator) -> Prompted:
        """See `Task.prepare`; a window of the clip that begins where the object shows, one target."""
        options = self._options
        present = clip.present(0)
        if not present.any():
            raise FormatError(f"{clip.name}: its object is in no frame")
        frames = _window(present, options.num_frames, options.max_gap, rng)
        images, masks = [], []
        for frame in frames:
            image = clip.image(frame)
            mask = clip.mask(0, frame, image.shape[:2]).astype(np.uint8)
            images.append(cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_LINEAR))
            masks.append(cv2.resize(mask, (self._side, self._side), interpolation=cv2.INTER_NEAREST))
        if not masks[0].any():  # lost by the resizing: its place is kept as one pixel
            row, col = np.argwhere(clip.mask(0, frames[0], image.shape[:2]))[0]
            masks[0][row * self._side // image.shape[0], col * self._side // image.shape[1]] = 1
        stacked = np.stack(masks)[None]
        points, labels = draw_prompts(stacked[:, 0], rng, clicks=options.click / max(1e-9, 1 - options.mask))
        return Prompted(
            pixels=torch.from_numpy(np.stack(images))[None].permute(0, 1, 4, 2, 3),
            clip=torch.zeros(1, dtype=torch.int64),
            masks=torch.from_numpy(stacked),
            prompts=torch.from_numpy(points),
            labels=torch.from_numpy(labels),
            by_mask=len(frames) > 1 and bool(rng.random() < options.mask),
            forced=options.forced,
        )

    def loss(self, sample: Prompted) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`; masks count on the frames where the object shows, its score on all."""
        options, device = self._options, self._device
        seen = follow(self.module, encode(self.module, sample.pixels.to(device)), sample, device)
        truth = sample.masks.to(device).float()
        first = truth.shape[1] - len(seen)
        total = torch.zeros((), device=device)
        figures = {"mask": 0.0, "score": 0.0}
        overlaps = []
        for t, one in enumerate(seen, start=first):
            shows = (truth[:, t].flatten(1).sum(1) > 0).float()
            masks, overlap = self._masks(one, truth[:, t])
            score = F.binary_cross_entropy_with_logits(one.score, shows)
            total = total + ((masks * shows).sum() + options.score * score * len(shows)) / (len(shows) * len(seen))
            figures["mask"] += float((masks.detach() * shows).sum()) / len(seen)
            figures["score"] += float(score.detach()) / len(seen)
            overlaps += (overlap * (one.score > 0))[shows > 0].tolist()
        return total, figures | ({"iou": float(np.mean(overlaps))} if overlaps else {})

    def _masks(self, one: Seen, truth: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) loss of the best of each target's candidates and of what the network thinks of all; (N,) IoU of the one it trusts most."""
        options = self._options
        logits = F.interpolate(one.logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
        num, candidates = logits.shape[:2]
        flat, aim = logits.flatten(0, 1), truth.repeat_interleave(candidates, 0)
        each = (options.focal * focal(flat, aim) + options.dice * dice(flat, aim)).view(num, candidates)
        found = flat.detach() > 0
        overlap = ((found & (aim > 0.5)).flatten(1).sum(1) / (found | (aim > 0.5)).flatten(1).sum(1).clamp(min=1)).view(num, candidates)
        trusted = overlap.gather(1, one.iou.argmax(1, keepdim=True))[:, 0]
        return each.min(1).values + options.iou * (one.iou - overlap).abs().mean(1), trusted

    def blocks(self) -> Sequence[nn.Module]:
        """See `Task.blocks`: the image encoder's."""
        return list(self.module.image_encoder.trunk.blocks)

    def export(self, folder: Path) -> None:
        """Write ``model.pt`` in the published form, and the config beside it, for it may be of no published shape."""
        weights = {name: value.detach().cpu() for name, value in self.module.state_dict().items()}
        torch.save({"model": weights}, folder / "model.pt")
        OmegaConf.save(self._config, folder / "model.yaml")


def _part(name: str) -> Trained:
    top = name.partition(".")[0]
    if top in ("image_encoder", "sam_mask_decoder", "sam_prompt_encoder"):
        return {"image_encoder": "image_encoder", "sam_mask_decoder": "mask_decoder", "sam_prompt_encoder": "prompt_encoder"}[top]
    return "memory"  # attention, encoder, pointers and the embeddings of time


def _window(present: NDArray[np.bool_], num_frames: int, max_gap: int, rng: np.random.Generator) -> list[int]:
    """Ascending frames from one with the object on, evenly spaced; shorter where the clip ends."""
    gap = int(rng.integers(1, max_gap + 1))
    start = int(rng.choice(np.flatnonzero(present)))
    return list(range(start, len(present), gap))[:num_frames]
