"""The embedded default tracker: OpenCV's GrabCut in the box of each frame, seeded by the last mask. No weights, no GPU.

It does not follow anything by itself: without a box in a frame it has no mask there. Its strength is where colour tells an
object from what surrounds its box, its weakness is camouflage and blur; the score says how well the mask explains the box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from egoray.core.boxes import clip_box, pixel_slices
from egoray.core.masks import Mask, ellipse_inside
from egoray.core.patch import Patch
from egoray.models.base import Frames, Image, TrackedMask, TrackRequest
from egoray.schema import Box

WORK_SIDE_PX = 112
"""Boxes are segmented at most this large (long side); the mask is scaled back."""
RING = 0.8
"""Width of the certain background around the box, as a share of the box's side."""
REACH = 0.15
"""How far from the last mask, as a share of the box's side, the object may be found again."""
MIN_FILL, MAX_FILL = 0.08, 0.98
"""Shares of the box beyond which GrabCut has collapsed; the inscribed ellipse stands in."""


class GrabCut:
    """Satisfies `VideoTracker`; stateless between calls.

    Args:
        iterations: GrabCut rounds a frame.
    """

    name = "grabcut"

    def __init__(self, iterations: int = 2) -> None:
        self.iterations = iterations

    def track(
        self, frames: Frames, requests: Sequence[TrackRequest], backward: Callable[[int, int], Frames] | None = None
    ) -> Iterator[tuple[int, dict[str, TrackedMask]]]:
        """See `VideoTracker.track`; it never asks for ``backward``. A mask is empty without a box and where it lies outside the image.

        Of the prompts it takes masks: they are handed back as given, and what follows stays near them, whatever else looks alike.
        """
        last: dict[str, Mask] = {}
        told: set[str] = set()
        for frame, image in frames:
            found = {}
            for request in requests:
                if request.start <= frame < request.stop:
                    box = request.boxes.get(frame)
                    mask = request.prompts[frame].mask if frame in request.prompts else None
                    if mask is None:
                        far = cv2.GC_BGD if request.key in told else cv2.GC_PR_BGD
                        found[request.key] = self._segment(image, box, last, request.key, far)
                    else:
                        found[request.key] = TrackedMask(patch=Patch.of(mask), score=1.0)
                        _remember(mask, box, last, request.key)
                        told.add(request.key)
            yield frame, found

    def _segment(self, image: Image, box: Box | None, last: dict[str, Mask], key: str, far: int) -> TrackedMask:
        size_hw = image.shape[:2]
        empty = TrackedMask(patch=Patch.empty(size_hw), score=0.0)
        inside = clip_box(box, size_hw) if box else None
        if inside is None:
            return empty
        margin_x, margin_y = (max(4.0, RING * (inside[i + 2] - inside[i])) for i in (0, 1))
        around = (inside[0] - margin_x, inside[1] - margin_y, inside[2] + margin_x, inside[3] + margin_y)
        rows, cols = pixel_slices(around, size_hw)
        crop = image[rows, cols]
        box_rows, box_cols = pixel_slices(inside, size_hw)
        scale = min(1.0, WORK_SIDE_PX / max(box_rows.stop - box_rows.start, box_cols.stop - box_cols.start))
        width, height = (max(1, round(n * scale)) for n in (crop.shape[1], crop.shape[0]))
        small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else crop
        top, bottom = (round((r - rows.start) * scale) for r in (box_rows.start, box_rows.stop))
        left, right = (round((c - cols.start) * scale) for c in (box_cols.start, box_cols.stop))
        bottom, right = max(bottom, top + 1), max(right, left + 1)

        labels = np.full((height, width), cv2.GC_BGD, np.uint8)
        labels[top:bottom, left:right] = _seed(bottom - top, right - left, last.get(key), far)
        cut = self._cut(np.ascontiguousarray(small[..., ::-1]), labels)[top:bottom, left:right]
        fill = cut.mean()
        if not MIN_FILL <= fill <= MAX_FILL:
            cut = ellipse_inside((0, 0, right - left, bottom - top), (bottom - top, right - left))
            score = 0.0
        else:
            cut = _main_parts(cut)
            last[key] = cut
            score = _explained(cut)
        target_hw = (box_rows.stop - box_rows.start, box_cols.stop - box_cols.start)
        return TrackedMask(patch=Patch(_resize(cut, target_hw), box_rows.start, box_cols.start, size_hw), score=score)

    def _cut(self, bgr: Image, labels: np.ndarray) -> Mask:
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(bgr, labels, None, background, foreground, self.iterations, cv2.GC_INIT_WITH_MASK)
        except cv2.error:
            return np.zeros(labels.shape, bool)
        return (labels & 1).astype(bool)


def _remember(mask: Mask, box: Box | None, last: dict[str, Mask], key: str) -> None:
    """Take what the mask has inside its box as the last one seen; nothing is known after an empty one."""
    inside = clip_box(box, mask.shape) if box else None
    part = mask[pixel_slices(inside, mask.shape)] if inside else None
    last.pop(key, None)
    if part is not None and part.any():
        last[key] = part


def _seed(height: int, width: int, last: Mask | None, far: int) -> np.ndarray:
    """Labels inside the box: probable foreground, and ``far`` for what lies far from the last mask, stretched to this box."""
    labels = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
    if last is not None:
        edge = max(3, int(2 * REACH * max(height, width)) | 1)
        near = cv2.dilate(_resize(last, (height, width)).astype(np.uint8), np.ones((edge, edge), np.uint8))
        labels[near == 0] = far
    return labels


def _resize(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    if mask.shape == size_hw:
        return mask
    return cv2.resize(mask.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5


def _main_parts(mask: Mask) -> Mask:
    """The mask without the specks: connected parts of at least a tenth of the largest one stay."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= 0.1 * areas[1:].max()
    keep[0] = False
    return keep[parts]


def _explained(mask: Mask) -> float:
    """Share of the box that the mask's own bounding box covers: 1.0 where the mask touches all four sides."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0.0
    return float((rows[-1] - rows[0] + 1) * (cols[-1] - cols[0] + 1) / mask.size)
