"""What the room is made of: textures of walls with things hung on them, counter tops with papers and stains, cupboards."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Textures:
    """What rooms may be made of: the palettes and patterns of walls and counters, what hangs and what lies there."""

    walls: tuple[Colour, ...]
    tops: tuple[Colour, ...]
    fronts: tuple[Colour, ...]
    wall_kinds: tuple[str, ...]
    top_kinds: tuple[str, ...]
    hung: tuple[str, ...]
    laid: tuple[str, ...]


_WALLS = ((214, 206, 190), (188, 196, 196), (206, 196, 170), (168, 180, 168), (196, 178, 166), (222, 220, 214), (150, 158, 170))
_TOPS = ((172, 134, 94), (140, 104, 70), (196, 190, 180), (104, 102, 100), (206, 184, 150), (158, 160, 158), (92, 72, 58))
_FRONTS = ((122, 90, 62), (208, 204, 196), (92, 102, 108), (164, 150, 128), (70, 84, 80))

TEXTURES = {
    "all": Textures(
        walls=_WALLS,
        tops=_TOPS,
        fronts=_FRONTS,
        wall_kinds=("plaster", "tiles", "bricks", "paper", "boards"),
        top_kinds=("planks", "stone", "laminate", "tiles"),
        hung=("window", "picture", "books", "cupboard", "notes"),
        laid=("paper", "cloth", "board", "mat"),
    ),
    "train": Textures(
        walls=(
            *((236, 228, 204), (176, 190, 208), (190, 204, 180), (214, 184, 172), (138, 146, 132), (120, 128, 146), (206, 208, 222)),
            *((186, 166, 142), (226, 206, 180), (160, 140, 150), (108, 104, 98), (198, 190, 204), (146, 170, 174), (232, 232, 226)),
        ),
        tops=(
            *((186, 150, 116), (120, 86, 60), (216, 212, 204), (76, 78, 82), (182, 160, 128), (136, 142, 146), (66, 54, 46)),
            *((150, 120, 104), (202, 196, 168), (112, 118, 108), (164, 138, 84), (228, 222, 210), (124, 110, 116), (96, 92, 76)),
        ),
        fronts=((144, 112, 82), (226, 222, 216), (64, 72, 88), (184, 172, 148), (96, 104, 84), (110, 70, 58), (140, 148, 156)),
        wall_kinds=("plaster", "tiles", "boards"),
        top_kinds=("planks", "stone", "laminate"),
        hung=("window", "picture", "cupboard"),
        laid=("paper", "board", "mat"),
    ),
    "test": Textures(
        walls=_WALLS,
        tops=_TOPS,
        fronts=_FRONTS,
        wall_kinds=("bricks", "paper"),
        top_kinds=("tiles",),
        hung=("books", "notes"),
        laid=("cloth",),
    ),
}
"""Sets by name: "all" for every clip, and two that share nothing, to train on one and be tried on the other."""


def _smooth(rng: np.random.Generator, height: int, width: int, cells_y: int, cells_x: int) -> Floats:
    """(height, width) float32 smooth noise of about unit variance with so many cells."""
    coarse = rng.standard_normal((cells_y + 2, cells_x + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _mottled(rng: np.random.Generator, height: int, width: int, colour: Colour, depth: float) -> Floats:
    """The colour with clouds, grain and a slight change of hue; ``depth`` in grey levels."""
    cloud = sum(_smooth(rng, height, width, n, round(n * width / height)) * weight for n, weight in ((3, 1.0), (12, 0.6), (60, 0.5)))
    grain = rng.standard_normal((height, width)).astype(np.float32)
    tone = depth * (cloud + 0.5 * grain)
    return np.array(colour, np.float32) + tone[..., None] * np.array([1.0, 0.96, 0.88], np.float32)


def _planks(rng: np.random.Generator, height: int, width: int, colour: Colour, rows: int) -> Floats:
    """Boards along the surface, each with its own tone and grain, dark in the joints."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    board = np.minimum((y * rows / height).astype(int), rows - 1)
    tone = rng.normal(0, 9, rows).astype(np.float32)[board]
    bend = _smooth(rng, height, width, 6, 5)
    shift = rng.uniform(0, 6, rows).astype(np.float32)[board]
    grain = np.sin(y * (rows * 26 / height) + 2.6 * bend + shift) + 0.6 * np.sin(y * (rows * 71 / height) + 5 * bend + shift)
    joint = np.abs((y * rows / height) % 1 - 0.5) > 0.5 - 1.6 * rows / height
    cut = (np.abs((x / width * 2 + shift) % 1 - 0.5) > 0.498).astype(np.float32)
    base = _mottled(rng, height, width, colour, 3.0) + (tone + 5.5 * grain)[..., None]
    return base * (1 - 0.35 * np.maximum(joint.astype(np.float32), cut))[..., None]


def _tiles(rng: np.random.Generator, height: int, width: int, colour: Colour, across: int, offset: bool) -> Floats:
    """Tiles or bricks (``offset`` rows) of slightly different tones between light joints."""
    edge = width / across
    tall = edge / 2 if offset else edge
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row = (y / tall).astype(int)
    x = x + (row % 2) * edge / 2 if offset else x
    column = (x / edge).astype(int)
    tone = rng.normal(0, 8, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    gap = 2.4 / edge
    joint = (((x / edge) % 1 < gap) | ((y / tall) % 1 < gap * edge / tall)).astype(np.float32)
    base = _mottled(rng, height, width, colour, 2.5) + tone[..., None]
    mortar = np.array(colour, np.float32) * 0.72 + 30
    return base + (mortar - base) * joint[..., None]


def _panel(image: Floats, x: int, y: int, width: int, height: int, colour: NDArray | tuple, rng: np.random.Generator) -> Floats:
    """Paint a rectangle with a cast shadow and mild grain; returns its pixels for more painting."""
    shadow = image[y + 5 : y + height + 9, x + 6 : x + width + 8]
    shadow *= 0.72
    area = image[y : y + height, x : x + width]
    area[:] = np.array(colour, np.float32) + rng.normal(0, 2.5, (*area.shape[:2], 1)).astype(np.float32)
    return area


def _hang(wall: Floats, x: int, y: int, width: int, height: int, kinds: tuple[str, ...], rng: np.random.Generator) -> None:
    """One of the kinds (a window, a picture, a shelf of books, a cupboard, notes) in the given rectangle of the wall."""
    kind = rng.choice(kinds)
    if kind == "window":
        area = _panel(wall, x, y, width, height, (236, 234, 228), rng)
        view = area[8:-8, 8:-8]
        sky = np.linspace(1, 0, len(view), dtype=np.float32)[:, None, None]
        view[:] = np.array([188, 214, 240], np.float32) * sky + np.array([150, 176, 140], np.float32) * (1 - sky)
        view += 14 * _smooth(rng, *view.shape[:2], 8, 8)[..., None]
        area[:, width // 2 - 4 : width // 2 + 4] = (228, 226, 220)
    elif kind == "picture":
        area = _panel(wall, x, y, width, height, rng.uniform(30, 90, 3), rng)
        inner = area[9:-9, 9:-9]
        hue = np.stack([_smooth(rng, *inner.shape[:2], 3, 3) for _ in range(3)], axis=-1)
        inner[:] = rng.uniform(90, 190, 3) + 34 * hue
    elif kind == "books":
        area = _panel(wall, x, y, width, height, (84, 66, 50), rng)
        for top in range(8, height - 40, 84):
            left = 8
            while left < width - 30:
                thick, tall = int(rng.integers(9, 26)), int(rng.integers(48, 68))
                spine = rng.uniform(50, 190) + rng.uniform(-45, 45, 3)
                book = area[top + 76 - tall : top + 76, left : left + thick]
                book[:] = spine * np.linspace(0.85, 1.08, book.shape[1])[:, None]
                book[6:10] = spine * 0.5 + 110
                left += thick + int(rng.integers(1, 4))
            area[top + 76 : top + 84] = (128, 100, 74)
    elif kind == "cupboard":
        colour = rng.uniform(120, 205) + rng.uniform(-15, 15, 3)
        area = _panel(wall, x, y, width, height, colour, rng)
        for left in (0, width // 2):
            door = area[8:-8, left + 7 : left + width // 2 - 7]
            door *= 0.95
            door[:3] *= 0.8
            door[:, :3] *= 0.85
            area[height - 50 : height - 24, left + width // 4 - 2 : left + width // 4 + 3] = (92, 92, 94)
    else:
        for _ in range(7):
            note = rng.uniform(160, 240, 3)
            edge = int(rng.integers(34, 60))
            left, top = (int(rng.integers(0, max(1, span - edge))) for span in (width, height))
            area = _panel(wall, x + left, y + top, edge, edge, note, rng)
            area[10:-8:7, 6:-6] *= 0.7


def paint_wall(rng: np.random.Generator, height: int, width: int, textures: Textures) -> Image:
    """A wall from ceiling to counter, (height, width, 3) uint8, darker towards the counter."""
    colour = textures.walls[rng.integers(len(textures.walls))]
    kind = rng.choice(textures.wall_kinds)
    if kind in ("tiles", "bricks"):
        wall = _tiles(rng, height, width, colour, int(rng.integers(9, 16)), offset=kind == "bricks")
    elif kind == "boards":
        wall = _planks(rng, width, height, colour, int(rng.integers(9, 14))).transpose(1, 0, 2).copy()
    else:
        wall = _mottled(rng, height, width, colour, 3.5)
        if kind == "paper":
            wall += 7 * np.sin(np.arange(width, dtype=np.float32) * (2 * np.pi / rng.uniform(24, 60)))[None, :, None]
    left = int(rng.integers(10, 50))
    while left < width - 110:
        span = int(rng.integers(90, 220))
        tall = int(rng.integers(110, 260))
        if rng.random() < 0.75 and left + span < width - 12:
            _hang(wall, left, int(rng.integers(round(height * 0.2), height - tall - 30)), span, tall, textures.hung, rng)
        left += span + int(rng.integers(25, 80))
    plug = _panel(wall, int(rng.integers(20, width - 60)), height - 62, 34, 24, (232, 230, 224), rng)
    plug[9:15, 8:12] = plug[9:15, 22:26] = (60, 60, 60)
    shade = np.linspace(1.04, 0.86, height, dtype=np.float32) ** 1.2
    return np.clip(wall * shade[:, None, None], 0, 255).astype(np.uint8)


def paint_top(rng: np.random.Generator, height: int, width: int, colour: Colour, textures: Textures) -> Image:
    """A counter top of the colour seen from above, the wall at its upper edge, (height, width, 3) uint8."""
    kind = rng.choice(textures.top_kinds)
    if kind == "planks":
        top = _planks(rng, height, width, colour, int(rng.integers(4, 8)))
    elif kind == "tiles":
        top = _tiles(rng, height, width, colour, int(rng.integers(10, 16)), offset=False)
    else:
        top = _mottled(rng, height, width, colour, 4.5 if kind == "stone" else 2.5)
        if kind == "stone":
            specks = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.6)
            top += (26 * np.tanh(6 * specks))[..., None]
    for _ in range(rng.integers(3, 7)):
        _lay(top, textures.laid, rng)
    for _ in range(rng.integers(2, 5)):  # stains and crumbs
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        radii = (int(rng.integers(12, 60)), int(rng.integers(6, 30)))
        spot = np.zeros((height, width), np.float32)
        cv2.ellipse(spot, centre, radii, float(rng.uniform(0, 180)), 0, 360, 1.0, cv2.FILLED)
        top *= (1 - 0.14 * cv2.GaussianBlur(spot, (0, 0), 5))[..., None]
    shade = np.clip(np.linspace(0.72, 1.5, height, dtype=np.float32), 0, 1.03)  # the wall's corner is darker
    lamp = 1 + 0.06 * _smooth(rng, height, width, 1, 2)
    return np.clip(top * (shade[:, None] * lamp)[..., None], 0, 255).astype(np.uint8)


def _lay(top: Floats, kinds: tuple[str, ...], rng: np.random.Generator) -> None:
    """One of the kinds: a sheet of paper, a cloth, a cutting board or a mat at an angle on the counter, with a soft shadow."""
    height, width = top.shape[:2]
    tall, wide = int(rng.integers(75, 135)), int(rng.integers(80, 200))
    kind = rng.choice(kinds)
    if kind == "paper":
        sheet = np.full((tall, wide, 3), rng.uniform(205, 235), np.float32)
        for y in range(12, tall - 8, 6):
            sheet[y : y + 2, 10 : int(rng.integers(wide // 2, wide - 8))] -= 80
    elif kind == "cloth":
        tint, pitch = rng.uniform(90, 200, 3), int(rng.integers(14, 26))
        y, x = np.mgrid[0:tall, 0:wide]
        weave = ((x // pitch) % 2 + (y // pitch) % 2)[..., None] * 0.5
        sheet = (tint * (1 - 0.3 * weave) + 30 * weave + 8 * _smooth(rng, tall, wide, 5, 5)[..., None]).astype(np.float32)
    elif kind == "board":
        sheet = _planks(rng, tall, wide, (178, 140, 98), 3)
    else:
        sheet = _mottled(rng, tall, wide, tuple(rng.integers(60, 150, 3)), 2.5)
        sheet[::22] += 26
        sheet[:, ::22] += 26
    turn = cv2.getRotationMatrix2D((wide / 2, tall / 2), float(rng.uniform(-35, 35)), 1.0)
    turn[:, 2] += rng.uniform(0, width) - wide / 2, rng.uniform(0, height) - tall / 2
    cover = cv2.warpAffine(np.ones((tall, wide), np.float32), turn, (width, height))
    moved = cv2.warpAffine(sheet, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    shadow = cv2.GaussianBlur(np.roll(cover, (5, 3), (0, 1)), (0, 0), 5)
    top *= (1 - 0.35 * shadow)[..., None]
    top += (moved - top) * cover[..., None]


def paint_front(rng: np.random.Generator, height: int, width: int, textures: Textures) -> Image:
    """The cupboard doors under a counter, (height, width, 3) uint8."""
    front = _planks(rng, width, height, textures.fronts[rng.integers(len(textures.fronts))], 6).transpose(1, 0, 2) * np.float32(0.8)
    doors = int(rng.integers(2, 5))
    for k in range(doors):
        left = k * width // doors
        front[:, left : left + 4] *= 0.45
        front[18:24, left + width // doors // 3 : left + 2 * width // doors // 3] = (150, 150, 150)
    front[:8] *= 0.4
    return np.clip(front, 0, 255).astype(np.uint8)
