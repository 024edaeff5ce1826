"""How the nano-tracker is trained: the sam2 package's own network on rendered clips, single frames first, then the memory.

Three things make it learn from few pictures: every thing of a frame is a target that shares the encoder's pass; a dense head that
is thrown away names what each pixel shows; and another says, on the features after memory attention, which cells the target covers,
so that the memory is taught without going through the mask decoder. Memories hold the true mask at first, the predicted one later.

Source: SAM 2's training on clips with prompts on the first frame (Ravi et al. 2024); the losses are ours, see `egoray.train.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.models.sam2_weights import build_network
from egoray.train.losses import balanced_bce, dice
from egoray.train.pictures import CLIP_FRAMES, Shard, Shards
from egoray.train.queries import COLOUR_NAMES, NOUNS
from egoray.train.rollout import Prompted, Seen, encode, follow, resize


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the curriculum.

    Attributes:
        until: share of the run at which it ends.
        size: pixels of the square that frames are fed as.
        clips: clips in a batch.
        frames: frames of each, from 1 on.
        things: targets of each clip at most.
        zoom: smallest and largest share of the frame's width that a clip's window shows.
        forced: share of the memories that are given the true mask.
    """

    until: float
    size: int
    clips: int
    frames: int
    things: int
    zoom: tuple[float, float]
    forced: float


CURRICULUM = (
    Stage(until=0.22, size=128, clips=16, frames=1, things=8, zoom=(0.35, 0.9), forced=1.0),
    Stage(until=0.38, size=128, clips=8, frames=2, things=8, zoom=(0.35, 0.7), forced=1.0),
    Stage(until=0.60, size=128, clips=4, frames=4, things=8, zoom=(0.4, 0.75), forced=0.6),
    Stage(until=0.86, size=256, clips=4, frames=3, things=6, zoom=(0.65, 1.0), forced=0.5),
    Stage(until=1.00, size=320, clips=2, frames=6, things=6, zoom=(0.8, 1.0), forced=0.2),
)


@dataclass(slots=True, kw_only=True)
class Clips(Prompted):
    """A batch, with what its pixels show: ``nouns`` and ``colours`` are (B, T, S/4, S/4) int64, 0 for nothing."""

    nouns: Tensor
    colours: Tensor


class ClipMaker:
    """Batches without end from the shards of a folder; the stage follows the run's progress.

    Args:
        folder: shards of training pictures.
        curriculum: stages in order.
        progress: how much of the run is over, 0 to 1.
        seed: of everything drawn.
    """

    def __init__(self, folder: Path, curriculum: Sequence[Stage], progress: Callable[[], float], seed: int) -> None:
        self._shards, self._curriculum, self._progress = Shards(folder), curriculum, progress
        self._rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Clips]:
        for number in range(2**62):
            if number % 200 == 0:
                self._shards.refresh()
            done = self._progress()
            stage = next((s for s in self._curriculum if done < s.until), self._curriculum[-1])
            yield self._batch(stage)

    def _batch(self, stage: Stage) -> Clips:
        rng, made = self._rng, []
        while len(made) < stage.clips:
            shard = self._shards.draw(rng)
            first = CLIP_FRAMES * int(rng.integers(shard.num_frames // CLIP_FRAMES)) + int(rng.integers(CLIP_FRAMES - stage.frames + 1))
            cut = cut_clip(shard, range(first, first + stage.frames), stage.size, stage.things, stage.zoom, rng)
            if cut is not None:
                made.append(cut)
        points, labels = zip(*(draw_prompts(cut.masks[:, 0], rng, clicks=0.25) for cut in made), strict=True)
        return Clips(
            **_stacked(made),
            prompts=torch.from_numpy(np.concatenate(points)),
            labels=torch.from_numpy(np.concatenate(labels)),
            by_mask=stage.frames > 1 and rng.random() < 0.2,
            forced=stage.forced,
        )


@dataclass(slots=True)
class Cut:
    """One clip as arrays; see `Clips` for the shapes without B."""

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    nouns: NDArray[np.int64]
    colours: NDArray[np.int64]


def cut_clip(
    shard: Shard, frames: Sequence[int], size: int, things: int, zoom: tuple[float, float], rng: np.random.Generator
) -> Cut | None:
    """A window of the clip, squeezed to a square as the engine does, around a thing that shows in its first frame; None without one."""
    truth = shard.truth(frames[0])
    seen = np.flatnonzero(truth.pixels)
    if not len(seen):
        return None
    pictures, owners = [shard.picture(f) for f in frames], [shard.owners(f) for f in frames]
    height, width = owners[0].shape
    share = rng.uniform(*zoom)
    box = truth.boxes[rng.choice(seen)]
    wide, tall = share * width, share * height
    left = np.clip((box[0] + box[2]) / 2 - rng.uniform(0.2, 0.8) * wide, 0, width - wide)
    top = np.clip((box[1] + box[3]) / 2 - rng.uniform(0.2, 0.8) * tall, 0, height - tall)
    rows, cols = slice(int(top), int(top + tall)), slice(int(left), int(left + wide))
    gain = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.04, 3))
    table = (np.arange(256)[:, None] * gain).clip(0, 255).astype(np.uint8)[None]
    pixels = np.stack([cv2.LUT(cv2.resize(p[rows, cols], (size, size), interpolation=cv2.INTER_AREA), table) for p in pictures])
    small = np.stack([cv2.resize(o[rows, cols], (size, size), interpolation=cv2.INTER_NEAREST) for o in owners])
    areas = np.bincount(small[0].ravel(), minlength=len(truth.pixels) + 1)[1:]
    targets = rng.permutation(np.flatnonzero(areas >= 12))[:things]
    if not len(targets):
        return None
    masks = (small[None] == (targets + 1)[:, None, None, None]).astype(np.uint8)
    listed = shard.things[truth.world]
    names = np.array([0] + [1 + NOUNS.index(t.noun) for t in listed])
    colours = np.array([0] + [1 + COLOUR_NAMES.index(t.colour) for t in listed])
    coarse = small[:, 2::4, 2::4]
    return Cut(pixels, masks, names[coarse], colours[coarse])


def _stacked(made: Sequence[Cut]) -> dict[str, Tensor]:
    """The parts of `Clips` that the cuts hold."""
    clip = np.concatenate([np.full(len(cut.masks), k) for k, cut in enumerate(made)])
    nouns, colours = (torch.from_numpy(np.stack([getattr(cut, name) for cut in made])) for name in ("nouns", "colours"))
    return {
        "pixels": torch.from_numpy(np.stack([cut.pixels for cut in made])).permute(0, 1, 4, 2, 3),
        "clip": torch.from_numpy(clip),
        "masks": torch.from_numpy(np.concatenate([cut.masks for cut in made])),
        "nouns": nouns,
        "colours": colours,
    }


def draw_prompts(masks: NDArray[np.uint8], rng: np.random.Generator, clicks: float) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points and labels of `Prompted` for each (N, S, S) mask: a box, its sides a little off, or, with chance ``clicks``, a click."""
    points, labels = [], []
    for mask in masks:
        x, y, width, height = cv2.boundingRect(mask)
        if rng.random() < clicks:
            inside = np.argwhere(mask)
            row, col = inside[rng.integers(len(inside))]
            points.append([[col + 0.5, row + 0.5], [0.0, 0.0]])
            labels.append([1, -1])
        else:
            off = rng.normal(0, 0.04, 4) * [width, height, width, height]
            points.append([[x + off[0], y + off[1]], [x + width + off[2], y + height + off[3]]])
            labels.append([2, 3])
    return np.array(points, np.float32), np.array(labels, np.int32)


class TrackerNet(nn.Module):
    """The SAM 2 network, ``sam2``, with the two heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        config = OmegaConf.load(str(resources.files("egoray.models.nano") / "tracker.yaml"))
        self.sam2 = build_network(config.model, Path("tracker.yaml"))
        nn.init.constant_(self.sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 2.0)
        width = self.sam2.hidden_dim
        self.names = nn.Conv2d(width, len(NOUNS) + len(COLOUR_NAMES) + 2, 1)
        self.covers = nn.Conv2d(width, 1, 1)


def roll(net: TrackerNet, batch: Clips, device: str) -> tuple[list[Seen], Tensor]:
    """Follow the batch's targets from their prompts; also the (B * T, 128, S/4, S/4) finest features. See `follow`."""
    resize(net.sam2, batch.pixels.shape[-1])
    encoded = encode(net.sam2, batch.pixels.to(device))
    return follow(net.sam2, encoded, batch, device), encoded["finest"]


class TrackerTask:
    """Satisfies `Task`.

    Args:
        net: the network, trained in place.
        batches: from the run's progress to batches without end.
        trial: measures the averaged weights.
        device: where the network is.
    """

    def __init__(
        self,
        net: TrackerNet,
        batches: Callable[[Callable[[], float]], Iterator[Clips]],
        trial: Callable[[nn.Module], dict[str, float]],
        device: str,
    ) -> None:
        self.net, self._batches, self._trial, self._device = net, batches, trial, device

    def batches(self, progress: Callable[[], float]) -> Iterator[Clips]:
        """See `Task.batches`."""
        return self._batches(progress)

    def weights(self, net: TrackerNet) -> dict[str, Tensor]:
        """See `Task.weights`."""
        return net.sam2.state_dict()

    def trial(self, net: nn.Module) -> dict[str, float]:
        """See `Task.trial`."""
        return self._trial(net)

    def loss(self, batch: Clips) -> tuple[Tensor, dict[str, float]]:
        """Masks where the target shows, whether it shows, how good the mask is; and the two heads that training alone has."""
        seen, finest = roll(self.net, batch, self._device)
        size = batch.pixels.shape[-1]
        truth = batch.masks.to(self._device).float()
        named, figures = self._naming(finest, batch)
        total = 0.5 * named
        sums: dict[str, list[Tensor]] = {"mask": [], "shows": [], "covers": []}
        first = truth.shape[1] - len(seen)
        for t, one in enumerate(seen, start=first):
            aim = F.avg_pool2d(truth[:, t], 2)
            logits = F.interpolate(one.logits[:, :1], size=(size // 2, size // 2), mode="bilinear", align_corners=False)[:, 0]
            shows = (truth[:, t].flatten(1).sum(1) > 0).float()
            count = shows.sum().clamp(min=1)
            sums["mask"].append(((balanced_bce(logits, aim) + dice(logits, aim)) * shows).sum() / count)
            sums["shows"].append(F.binary_cross_entropy_with_logits(one.score, shows))
            overlap = _iou(logits.detach() > 0, aim > 0.5)
            total = total + 0.1 * ((one.iou[:, 0] - overlap) ** 2 * shows).sum() / count / len(seen)
            if t > 0:
                cells = F.avg_pool2d(truth[:, t], 16)
                covers = self.net.covers(one.fused)[:, 0].float()
                sums["covers"].append((balanced_bce(covers, cells) * shows).sum() / count)
            figures[f"iou_{'first' if t == 0 else 'next'}"] = float((overlap * shows).sum() / count)
        for name, weight in (("mask", 1.0), ("shows", 0.2), ("covers", 0.5)):
            if sums[name]:
                mean = torch.stack(sums[name]).mean()
                total = total + weight * mean
                figures[name] = float(mean.detach())
        return total, figures | {"size": size, "frames": truth.shape[1]}

    def _naming(self, finest: Tensor, batch: Clips) -> tuple[Tensor, dict[str, float]]:
        nouns, colours = batch.nouns.to(self._device).flatten(0, 1), batch.colours.to(self._device).flatten(0, 1)
        logits = self.net.names(finest).float()
        split = len(NOUNS) + 1
        weight = torch.where(nouns > 0, 1.0, 0.15)
        weight = weight / weight.sum()
        loss = sum(
            (F.cross_entropy(part, aim, reduction="none") * weight).sum()
            for part, aim in ((logits[:, :split], nouns), (logits[:, split:], colours))
        )
        return loss, {"named": float(loss.detach())}


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(N,) of (N, H, W) bool masks."""
    return (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp(min=1)


@torch.inference_mode()
def trial(net: TrackerNet, shards: Shards, device: str, size: int = 128, num: int = 24, frames: int = CLIP_FRAMES) -> dict[str, float]:
    """Mean IoU over visible targets of whole frames: with the box, and on the frames after it that the memory alone leads."""
    rng, first, rest = np.random.default_rng(11), [], []
    for _ in range(num):
        shard = shards.draw(rng)
        start = CLIP_FRAMES * int(rng.integers(shard.num_frames // CLIP_FRAMES))
        cut = cut_clip(shard, range(start, start + frames), size, 4, (1.0, 1.0), rng)
        if cut is None:
            continue
        points, labels = draw_prompts(cut.masks[:, 0], rng, clicks=0.0)
        batch = Clips(**_stacked([cut]), prompts=torch.from_numpy(points), labels=torch.from_numpy(labels), by_mask=False, forced=0.0)
        for t, one in enumerate(roll(net.eval(), batch, device)[0]):
            truth = batch.masks[:, t].to(device)
            logits = F.interpolate(one.logits[:, :1], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            found = (logits > 0) & (one.score > 0)[:, None, None]
            overlap = _iou(found, truth.bool())
            (rest if t else first).extend(overlap[truth.flatten(1).any(1).bool()].tolist())
    return {f"trial{size}_first": float(np.mean(first)), f"trial{size}_next": float(np.mean(rest)) if rest else 0.0}
