"""How the nano-detector is trained: crops of rendered frames, every thing in them, and sentences held against all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.models.nano.detector_net import CELL_PX, DetectorNet, tokenize
from egoray.train.losses import box_iou, quality_focal, sentence_loss
from egoray.train.pictures import Shards
from egoray.train.queries import NUM_VALUES, answers, draw_queries, thing_codes

INPUT_HW = (384, 640)
"""What a whole frame is fed as, height rounded up to the network's 32; crops are taken at about this scale."""


@dataclass(slots=True)
class Batch:
    """B crops with their N things in all, and Q sentences.

    Attributes:
        pixels: (B, 3, h, w) uint8.
        image: (N,) int64, the crop that each thing is in.
        boxes: (N, 4) float32 xyxy pixels of the crop.
        codes: (N, 7) int64, see `thing_codes`.
        tokens: (Q, L, 1 + G) int64, see `tokenize`.
        truth, known: (N, Q) bool, see `answers`.
    """

    pixels: Tensor
    image: Tensor
    boxes: Tensor
    codes: Tensor
    tokens: Tensor
    truth: Tensor
    known: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorRecipe:
    """What a batch is.

    Attributes:
        crops: B, crops in a batch.
        crop_hw: their (height, width) pixels, multiples of 32.
        zoom: smallest and largest scale of a crop, 1 being that of a whole frame at `INPUT_HW`.
        sentences: Q.
    """

    crops: int = 16
    crop_hw: tuple[int, int] = (192, 320)
    zoom: tuple[float, float] = (0.7, 1.5)
    sentences: int = 128


class CropMaker:
    """Batches without end from the shards of a folder.

    Args:
        folder: shards of training pictures.
        seed: of everything drawn.
    """

    def __init__(self, folder: Path, recipe: DetectorRecipe, seed: int) -> None:
        self._shards, self._recipe, self._rng = Shards(folder), recipe, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(2**62):
            if number % 200 == 0:
                self._shards.refresh()
            yield self._batch()

    def _batch(self) -> Batch:
        recipe, rng = self._recipe, self._rng
        crops, boxes, codes, image = [], [], [], []
        for k in range(recipe.crops):
            shard = self._shards.draw(rng)
            frame = int(rng.integers(shard.num_frames))
            truth = shard.truth(frame)
            crop, moved, seen = self._crop(shard.picture(frame), truth.boxes, truth.pixels)
            crops.append(crop)
            boxes.append(moved)
            codes.append(thing_codes(shard.things[truth.world], truth.held)[seen])
            image.append(np.full(len(moved), k))
        things = np.concatenate(codes)
        queries = draw_queries(things, recipe.sentences, rng)
        truth_table, known = answers(things, queries)
        return Batch(
            torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2),
            torch.from_numpy(np.concatenate(image)),
            torch.from_numpy(np.concatenate(boxes)),
            torch.from_numpy(things),
            tokenize([query.text for query in queries]),
            torch.from_numpy(truth_table),
            torch.from_numpy(known),
        )

    def _crop(self, picture: NDArray, boxes: NDArray, pixels: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """A crop, the boxes of the things in it that show enough, and which things they are."""
        (height, width), rng = self._recipe.crop_hw, self._rng
        scale = INPUT_HW[1] / picture.shape[1] * np.exp(rng.uniform(*np.log(self._recipe.zoom)))
        scale = max(scale, height / picture.shape[0], width / picture.shape[1])
        stretch = np.exp(rng.uniform(-0.08, 0.08))
        sx, sy = max(scale * stretch, width / picture.shape[1]), max(scale / stretch, height / picture.shape[0])
        x0 = rng.uniform(0, picture.shape[1] - width / sx)
        y0 = rng.uniform(0, picture.shape[0] - height / sy)
        x1, y1 = x0 + width / sx, y0 + height / sy
        rows, cols = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        part = picture[rows, cols]
        crop = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if sx < 1 else cv2.INTER_LINEAR)
        sx, sy = width / part.shape[1], height / part.shape[0]
        moved = (boxes - [cols.start, rows.start, cols.start, rows.start]) * [sx, sy, sx, sy]
        whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        moved = np.stack([moved[:, k].clip(0, (width, height)[k % 2]) for k in range(4)], axis=1)
        left = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        seen = (pixels > 0) & (left > 0.3 * whole) & (left > 30)
        return _relight(crop, rng), moved[seen].astype(np.float32), seen


def _relight(crop: NDArray, rng: np.random.Generator) -> NDArray:
    """Light and contrast a little different, the hue hardly: colours keep their names."""
    gain = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.03, 3))
    table = (np.arange(256)[:, None] * gain + rng.normal(0, 6)).clip(0, 255).astype(np.uint8)
    return cv2.LUT(crop, table[None])


class DetectorTraining(nn.Module):
    """The network, ``detector``, with a head that only training needs: it names the facets of a thing from its looks."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = DetectorNet()
        self.names = nn.Linear(self.detector.dim, sum(NUM_VALUES))


class DetectorTask:
    """Satisfies `Task`.

    Args:
        net: the network, trained in place.
        batches: where batches come from, an iterable or a loader of worker processes.
        trial: measures the averaged weights.
        device: where the network is.
    """

    def __init__(
        self, net: DetectorTraining, batches: Callable[[], Iterator[Batch]], trial: Callable[[nn.Module], dict[str, float]], device: str
    ) -> None:
        self.net, self._batches, self._trial, self._device = net, batches, trial, device

    def batches(self, progress: Callable[[], float]) -> Iterator[Batch]:
        """See `Task.batches`."""
        return self._batches()

    def trial(self, net: nn.Module) -> dict[str, float]:
        """See `Task.trial`."""
        return self._trial(net)

    def weights(self, net: DetectorTraining) -> dict[str, Tensor]:
        """See `Task.weights`."""
        return net.detector.state_dict()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Middles (to the quality of their boxes), boxes, facets and sentences, the last two at the cells of things alone."""
        net, device = self.net.detector, self._device
        pixels = batch.pixels.to(device, non_blocking=True).float() / 255
        logits, boxes, looks = net(pixels.contiguous(memory_format=torch.channels_last))
        cells, things = (part.to(device) for part in middles(batch.boxes, batch.image, tuple(logits.shape)))
        aims = batch.boxes.to(device)[things]
        overlap, generalised = box_iou(boxes.flatten(0, 2)[cells], aims)
        quality = torch.zeros(logits.numel(), device=device)
        quality[cells] = overlap.detach().clamp(min=0.1)
        num = max(1, len(cells))
        found = 2 * quality_focal(logits.flatten().float(), quality) / num
        placed = 2 * (1 - generalised).sum() / num
        sentences = net.text(batch.tokens.to(device))
        looks = looks.flatten(0, 2)[cells]
        codes = batch.codes.to(device)[things]
        parts = self.net.names(looks).float().split(NUM_VALUES, dim=1)
        named = torch.stack([F.cross_entropy(part, codes[:, k]) for k, part in enumerate(parts)]).sum()
        with torch.autocast(torch.device(device).type, enabled=False):  # sums over words need the full precision
            log_p = net.match(looks.float(), tuple(part.float() for part in sentences))
        meant = sentence_loss(log_p, batch.truth.to(device)[things], batch.known.to(device)[things])
        losses = {"found": found, "placed": placed, "named": named, "meant": meant}
        figures = {name: float(value.detach()) for name, value in losses.items()}
        return found + placed + 0.5 * named + meant, figures | {"iou": float(overlap.detach().mean())}


def middles(boxes: Tensor, image: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The flat cells (M,) of a (B, h, w) map that belong to things, and the things (M,).

    A thing has the cells whose centres lie within the middle half of its box, or the one nearest to its middle. A cell wanted by two
    goes to the smaller.
    """
    _, height, width = shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = CELL_PX * (torch.stack([x, y], dim=-1).float() + 0.5)  # (h, w, 2)
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    inside = ((centre[None] - middle[:, None, None]).abs() <= 0.25 * size[:, None, None]).all(-1)
    nearest = (middle / CELL_PX).long().clamp(min=0)
    inside[torch.arange(len(boxes)), nearest[:, 1].clamp(max=height - 1), nearest[:, 0].clamp(max=width - 1)] = True
    things, rows, cols = inside.nonzero(as_tuple=True)
    cells = (image[things] * height + rows) * width + cols
    by_size = size.prod(1).argsort(descending=True, stable=True)
    rank = torch.empty_like(by_size).scatter_(0, by_size, torch.arange(len(boxes)))
    best = torch.full((shape[0] * height * width,), -1, dtype=torch.int64)
    best.scatter_reduce_(0, cells, rank[things], "amax")
    taken = (best >= 0).nonzero()[:, 0]
    return taken, by_size[best[taken]]
