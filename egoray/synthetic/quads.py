"""Textured rectangles in space as the pinhole camera sees them: their homography, the pixels they reach, and blending."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.camera import Camera, Floats

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_NEAR_M = 0.05


@dataclass(frozen=True, slots=True)
class Quad:
    """A rectangle in world space: its upper left ``corner`` and the full edges ``right`` and ``down``, (3,) metres each."""

    corner: Floats
    right: Floats
    down: Floats

    @classmethod
    def around(cls, centre: Floats, right: Floats, down: Floats) -> Quad:
        """The rectangle with these edges about its centre."""
        return cls(centre - (right + down) / 2, right, down)

    @property
    def centre(self) -> Floats:
        """Its middle, (3,) metres."""
        return self.corner + (self.right + self.down) / 2


@dataclass(frozen=True, slots=True)
class View:
    """Where a quad's texture falls: ``region`` (rows, columns) of the frame; ``matrix``, texture pixels to the region's; and
    ``polygon`` (M, 2), the visible part's corners in the region's pixels."""

    region: tuple[slice, slice]
    matrix: Floats
    polygon: Floats

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the region."""
        rows, cols = self.region
        return cols.stop - cols.start, rows.stop - rows.start


def look(camera: Camera, quad: Quad, texture_hw: tuple[int, int], cut: float = 0.0) -> View | None:
    """The quad as seen, or None where no pixel of the frame can show it.

    ``cut`` makes it a trapezoid: the share of the lower edge that is missing at either end.
    """
    corner = camera.rotation @ (quad.corner - camera.position)
    right, down = camera.rotation @ quad.right, camera.rotation @ quad.down
    points = _in_front(np.stack([corner, corner + right, corner + (1 - cut) * right + down, corner + cut * right + down]))
    if len(points) == 0:
        return None
    intrinsics = camera.intrinsics
    seen = points @ intrinsics.T
    seen = seen[:, :2] / seen[:, 2:]
    height, width = camera.size_hw
    x1, y1 = np.clip(np.floor(seen.min(axis=0)), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(seen.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x2 <= x1 or y2 <= y1:
        return None
    step_x, step_y = right / texture_hw[1], down / texture_hw[0]
    matrix = intrinsics @ np.stack([step_x, step_y, corner + (step_x + step_y) / 2], axis=1)
    matrix[0] -= x1 * matrix[2]
    matrix[1] -= y1 * matrix[2]
    return View((slice(y1, y2), slice(x1, x2)), matrix, seen - (x1, y1))


def _in_front(points: Floats) -> Floats:
    """The polygon's part before the camera's near plane, (M, 3); empty when all of it is behind."""
    near = points[:, 2] > _NEAR_M
    if near.all():
        return points
    kept = []
    for k in range(len(points)):
        a, b = points[k], points[(k + 1) % len(points)]
        if near[k]:
            kept.append(a)
        if near[k] != near[(k + 1) % len(points)]:
            kept.append(a + (b - a) * (_NEAR_M - a[2]) / (b[2] - a[2]))
    return np.array(kept)


def cover(canvas: Image, view: View, texture: Image) -> None:
    """Draw an opaque texture over the canvas, within the view's polygon."""
    paint = cv2.warpPerspective(texture, view.matrix, view.size, borderMode=cv2.BORDER_REPLICATE)
    inside = np.zeros(paint.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, np.rint(view.polygon).astype(np.int32), 255)
    cv2.copyTo(paint, inside, canvas[view.region])


def outline(view: View, alpha: Image) -> Image:
    """The warped ``alpha`` in the view's region, uint8, 0 outside the quad."""
    return cv2.warpPerspective(alpha, view.matrix, view.size)


def blend(canvas: Image, view: View, texture: Image, alpha: Image) -> None:
    """Draw a texture with soft edges; ``alpha`` is the outline in the view's region."""
    area = canvas[view.region]
    paint = cv2.warpPerspective(texture, view.matrix, view.size, borderMode=cv2.BORDER_REPLICATE)
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    cv2.blendLinear(paint, area, weight, 1 - weight, dst=area)


def darken(canvas: Image, view: View, alpha: Image) -> None:
    """Cast a shadow: the canvas loses the share ``alpha`` / 255 of its light."""
    shade = 255 - outline(view, alpha)
    area = canvas[view.region]
    cv2.multiply(area, cv2.merge([shade, shade, shade]), dst=area, scale=1 / 255)


def smear(canvas: Image, motion_px: Floats) -> None:
    """Blur the canvas along the motion (x, y in pixels) about where it was; nothing happens below one pixel."""
    image = canvas
    for k in range(int(np.ceil(np.log2(max(1.0, np.hypot(*motion_px)))))):
        # Two copies half the way apart, then a quarter, and so on: 2^steps samples of the path.
        dx, dy = (round(float(v)) for v in motion_px / 2 ** (k + 1))
        ahead, behind = _moved(image, dx // 2, dy // 2), _moved(image, dx // 2 - dx, dy // 2 - dy)
        image = cv2.addWeighted(ahead, 0.5, behind, 0.5, 0)
    canvas[:] = image


def _moved(image: Image, dx: int, dy: int) -> Image:
    """The image shifted by whole pixels, its border repeated."""
    height, width = image.shape[:2]
    framed = cv2.copyMakeBorder(image, max(dy, 0), max(-dy, 0), max(dx, 0), max(-dx, 0), cv2.BORDER_REPLICATE)
    y, x = max(-dy, 0), max(-dx, 0)
    return framed[y : y + height, x : x + width]
