"""What a vision model is shown of an object: the frame with its box drawn, and a close-up, sized to the model's tiles."""

from __future__ import annotations

import math

import cv2

from egoray.core.boxes import scale_box
from egoray.core.video import Image
from egoray.schema import Box

TILE_PX = 512
_SHORT_SIDE_PX = 768  # the server shrinks a larger picture to this before it cuts tiles
_BOX_RGB = (255, 0, 0)
_JPEG_QUALITY = 88
_CLOSE_UP = 2.0  # the close-up's side over the object's


def fit_tiles(size_hw: tuple[int, int], max_tiles: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio, never larger than the picture, that takes at most ``max_tiles`` tiles of 512 px.

    Source: the published image pricing of gpt-4o: the shorter side is brought to 768 px at most, then 512 px tiles are counted.
    """
    height, width = size_hw
    best = 0.0
    for rows in range(1, max_tiles + 1):
        columns = max_tiles // rows
        best = max(best, min(rows * TILE_PX / height, columns * TILE_PX / width))
    scale = min(1.0, best, _SHORT_SIDE_PX / min(size_hw))
    return max(1, math.floor(scale * height)), max(1, math.floor(scale * width))


def num_tiles(size_hw: tuple[int, int]) -> int:
    """Tiles of 512 px that a picture of at most 768 px on its shorter side takes."""
    return math.ceil(size_hw[0] / TILE_PX) * math.ceil(size_hw[1] / TILE_PX)


def boxed(frame_rgb: Image, box: Box, max_tiles: int) -> bytes:
    """JPEG of the ``(H, W, 3)`` frame, shrunk to its tiles, with the box drawn in red around the object."""
    height, width = fit_tiles(frame_rgb.shape[:2], max_tiles)
    shown = cv2.resize(frame_rgb, (width, height), interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = scale_box(box, width / frame_rgb.shape[1], height / frame_rgb.shape[0])
    corners = (math.floor(x1) - 2, math.floor(y1) - 2), (math.ceil(x2) + 1, math.ceil(y2) + 1)  # outside, so that no pixel of it is hidden
    cv2.rectangle(shown, *corners, _BOX_RGB, 2)
    return _jpeg(shown)


def close_up(frame_rgb: Image, box: Box) -> bytes:
    """JPEG of one tile: the square around the box, twice its longer side, cut at the frame's borders; small ones are enlarged."""
    height, width = frame_rgb.shape[:2]
    side = min(max(_CLOSE_UP * max(box[2] - box[0], box[3] - box[1]), 32.0), float(min(height, width)))
    top = min(max(0.0, (box[1] + box[3] - side) / 2), height - side)
    left = min(max(0.0, (box[0] + box[2] - side) / 2), width - side)
    crop = frame_rgb[int(top) : int(top + side), int(left) : int(left + side)]
    enlarge = cv2.INTER_CUBIC if side < TILE_PX else cv2.INTER_AREA
    return _jpeg(cv2.resize(crop, (TILE_PX, TILE_PX), interpolation=enlarge))


def _jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
