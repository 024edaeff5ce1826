"""A trial of a model in training: a benchmark's sentences answered by it, scored by IoU_gold_pred and the rest, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum

import cv2
import numpy as np

from egoray.core import paths
from egoray.core.clip import ImageClip
from egoray.core.masks import bounding_box, decode, encode
from egoray.core.video import Image, read_image
from egoray.errors import ConfigError, FormatError
from egoray.evaluate.expression import score_expression
from egoray.formats.egomask import images_dir, read_gold, read_items
from egoray.models.base import Grounder, Prompt, TrackRequest, VideoTracker
from egoray.schema import GroundingItem, MaskRLE

SHOWN = ("IoU_gold_pred", "IoU_gold", "IoU_all", "T_recall", "J&F")
_TRUE, _FOUND = (0, 158, 115), (230, 159, 0)
_TILE_PX = 320


def trial_items(root: str, split: str, clips: int) -> list[list[GroundingItem]]:
    """The questions of the first clips of a split, clip by clip.

    Raises:
        ConfigError: if there is none.
    """
    by_video: dict[str, list[GroundingItem]] = {}
    for item in read_items(root, split):
        by_video.setdefault(item.video_id, []).append(item)
    if not by_video:
        raise ConfigError(f"trial: {root} has no {split} clip; set trial_split, or give another folder")
    return list(by_video.values())[:clips]


Gold = Mapping[str, MaskRLE]
Answer = Callable[[ImageClip, Sequence[GroundingItem], Sequence[Gold]], list[Mapping[int, MaskRLE]]]
"""A clip, questions about it and their true masks by frame name → the masks found for each, by frame number."""


def by_sentence(model: Grounder) -> Answer:
    """The model is told the sentences alone."""

    def answer(clip: ImageClip, items: Sequence[GroundingItem], gold: Sequence[Gold]) -> list[Mapping[int, MaskRLE]]:
        return [found.masks for found in model.ground(clip, [item.text for item in items])]

    return answer


def by_box(model: VideoTracker) -> Answer:
    """The tracker is told the true box in the first frame that the object shows in."""

    def answer(clip: ImageClip, items: Sequence[GroundingItem], gold: Sequence[Gold]) -> list[Mapping[int, MaskRLE]]:
        requests = []
        for number, (item, masks) in enumerate(zip(items, gold, strict=True)):
            first = next((frame for frame, name in enumerate(item.frame_names) if name in masks), None)
            if first is not None:
                box = bounding_box(masks[item.frame_names[first]])
                prompt = {first: Prompt(box=box)}
                requests.append(TrackRequest(key=str(number), start=first, stop=clip.num_frames, prompts=prompt, boxes={first: box}))
        found: list[dict[int, MaskRLE]] = [{} for _ in items]
        for frame, tracked in model.track(clip.frames(), requests):
            for key, one in tracked.items():
                if (mask := one.mask).any():
                    found[int(key)][frame] = encode(mask)
        return list(found)

    return answer


def try_on(answer: Answer, root: str, clips: Iterable[list[GroundingItem]]) -> tuple[dict[str, float], bytes]:
    """Mean figures over expressions, by the rules of `egoray evaluate`, and a JPEG with a row an expression: truth green, answer orange.

    Raises:
        FormatError: if an image or a mask cannot be read.
    """
    rows: list[dict[str, float]] = []
    tiles: list[Image] = []
    for items in clips:
        folder = images_dir(root, items[0])
        frames = [paths.join(folder, f"{name}.jpg") for name in items[0].frame_names]
        golds = [read_gold(root, item) for item in items]
        for item, gold, found in zip(items, golds, answer(ImageClip(frames), items, golds), strict=True):
            predicted = {item.frame_names[frame]: rle for frame, rle in found.items()}
            rows.append(score_expression(item.frame_names, gold, predicted))
            if len(tiles) < 8:
                tiles.append(_row(item, frames, gold, predicted))
    if not rows:
        raise FormatError(f"{root}: no expression to try")
    figures = {}
    for name in SHOWN:
        values = [row[name] for row in rows if row[name] is not None]
        figures[name] = fsum(values) / len(values) if values else 0.0
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(np.concatenate(tiles), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return figures, data.tobytes()


def _row(item: GroundingItem, paths: list[str], gold: Gold, predicted: Gold) -> Image:
    """Three frames of an expression's clip, those with the object first, under its text."""
    order = sorted(range(len(paths)), key=lambda frame: (item.frame_names[frame] not in gold, frame))
    shown = sorted(order[:: max(1, len(gold) // 3)][:3]) if len(gold) >= 3 else sorted(order[:3])
    tiles = []
    for frame in shown:
        image = read_image(paths[frame])
        for masks, colour in ((gold, _TRUE), (predicted, _FOUND)):
            if rle := masks.get(item.frame_names[frame]):
                outline, _ = cv2.findContours(decode(rle).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                image = cv2.drawContours(np.ascontiguousarray(image), outline, -1, colour, max(2, image.shape[1] // 300))
        tiles.append(cv2.resize(image, (_TILE_PX, round(_TILE_PX * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_AREA))
    while len(tiles) < 3:
        tiles.append(np.zeros_like(tiles[0]))
    title = np.full((24, 3 * _TILE_PX, 3), 255, np.uint8)
    text = item.text.encode("ascii", "replace").decode()[:110]
    title = cv2.putText(title, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([title, np.concatenate(tiles, axis=1)])
