"""Named things with attributes, and how they are painted: colour, material, print, light on their form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.shapes import BODY, DIM, INSIDE, LIT, METAL, SHAPES, draw_parts

Image = NDArray[np.uint8]

COLOURS = {
    "red": (186, 44, 40),
    "orange": (224, 122, 36),
    "yellow": (228, 192, 58),
    "green": (58, 134, 70),
    "turquoise": (56, 164, 166),
    "blue": (44, 88, 172),
    "purple": (116, 70, 150),
    "pink": (222, 128, 160),
    "brown": (118, 78, 48),
    "black": (44, 44, 48),
    "white": (226, 226, 222),
}
MATERIALS = ("plain", "wooden", "metallic", "striped", "dotted", "checked")
WORDS = ("TEA", "SUN", "MAX", "HOME", "LUCKY", "No 7", "ZEN", "JAZZ", "OSLO", "BIO", "A1", "HELLO")

_EDGE = 160  # pixels of a sprite's side, near the largest that a thing shows in a frame
_TINT = {BODY: 1.0, INSIDE: 0.38, METAL: 1.0, LIT: 1.18, DIM: 0.78}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What can be said of a thing: its noun (a key of `SHAPES`), colour, material, print ("" for none) and scale."""

    noun: str
    colour: str
    material: str
    text: str
    scale: float

    @property
    def use(self) -> str:
        """What it is for, after "used for"."""
        return SHAPES[self.noun].use

    @property
    def title(self) -> str:
        """Its everyday name, colour and noun: look-alikes may share it."""
        return f"{self.colour} {self.noun}"

    def looks(self) -> tuple[str, str, str, str]:
        """All that tells it from others but its size."""
        return (self.noun, self.colour, self.material, self.text)


class Sprite:
    """A thing's picture: ``alpha`` (E, E) uint8 at once, ``rgb`` (E, E, 3) uint8 painted on first use.

    Colours run past the outline, so that an edge pixel never mixes in another colour.
    """

    def __init__(self, attributes: Attributes, seed: int) -> None:
        self._attributes, self._seed = attributes, seed
        self._parts = draw_parts(SHAPES[attributes.noun], 2 * _EDGE)
        self.alpha: Image = cv2.resize((self._parts > 0).astype(np.uint8) * 255, (_EDGE, _EDGE), interpolation=cv2.INTER_AREA)

    @cached_property
    def rgb(self) -> Image:
        """The painted picture."""
        thing, rng = self._attributes, np.random.Generator(np.random.PCG64(self._seed))
        shape, edge = SHAPES[thing.noun], 2 * _EDGE
        paint = _material(thing.material, COLOURS[thing.colour], edge, rng)
        if thing.text and shape.label:
            _print(paint, thing.text, shape.label, COLOURS[thing.colour])
        paint[self._parts == METAL] = (168, 170, 174)
        tint = np.ones(256, np.float32)
        tint[list(_TINT)] = list(_TINT.values())
        light = tint[self._parts] * _shading(self._parts, shape.form)
        shaded = np.clip(paint * light[..., None], 0, 255).astype(np.uint8)
        small = cv2.resize(shaded, (_EDGE, _EDGE), interpolation=cv2.INTER_AREA)
        return _bleed(small, self.alpha)

    @cached_property
    def alphas(self) -> list[Image]:
        """The outline at full, half and quarter size, against shimmer when the thing is far away."""
        return _halved(self.alpha)

    @cached_property
    def pictures(self) -> list[Image]:
        """The painted picture at the same sizes."""
        return _halved(self.rgb)

    @cached_property
    def shadow(self) -> Image:
        """What a flat thing takes of the counter's light, (E/4, E/4) uint8."""
        return cv2.convertScaleAbs(cv2.GaussianBlur(self.alphas[2], (0, 0), 1.2), alpha=0.45)


def _halved(image: Image) -> list[Image]:
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return [image, half, cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)]


def _material(name: str, colour: tuple[int, int, int], edge: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(edge, edge, 3) float32 grey levels of the colour in the material."""
    base = np.array(colour, np.float32)
    other = base * 0.35 + 150 if base.mean() < 110 else base * 0.42
    y, x = np.mgrid[0:edge, 0:edge].astype(np.float32) / edge
    grain = cv2.resize(rng.standard_normal((40, 40)).astype(np.float32), (edge, edge), interpolation=cv2.INTER_CUBIC)
    mix = np.zeros((edge, edge), np.float32)
    light = 1 + 0.025 * grain
    if name == "wooden":
        bend = cv2.resize(rng.standard_normal((5, 5)).astype(np.float32), (edge, edge), interpolation=cv2.INTER_CUBIC)
        mix = 0.30 + 0.28 * np.sin(2 * np.pi * (7 * x + 0.35 * bend)) + 0.12 * np.sin(2 * np.pi * (29 * x + 1.1 * bend + 0.3 * y))
    elif name == "metallic":
        angle = rng.uniform(0.6, 1.0)
        along = x + angle * y
        light = light * (0.85 + 0.5 * np.exp(-(((along - 0.75) / 0.12) ** 2)) - 0.25 * np.exp(-(((along - 1.1) / 0.16) ** 2)))
    elif name == "striped":
        mix = (np.sin(2 * np.pi * (rng.uniform(4, 6) * (y + rng.uniform(-0.5, 0.5) * x))) > 0.15).astype(np.float32)
    elif name == "dotted":
        pitch = rng.uniform(0.11, 0.16)
        row = np.floor(y / pitch)
        mix = (np.hypot((x / pitch + 0.5 * (row % 2)) % 1 - 0.5, (y / pitch) % 1 - 0.5) < 0.28).astype(np.float32)
    elif name == "checked":
        pitch = rng.uniform(0.09, 0.13)
        mix = ((np.floor(x / pitch) + np.floor(y / pitch)) % 2).astype(np.float32)
    return (base + (other - base) * mix[..., None]) * light[..., None]


def _print(paint: NDArray[np.float32], text: str, label: tuple[float, float, float], colour: tuple[int, int, int]) -> None:
    edge = len(paint)
    ink = (30.0, 30.0, 34.0) if np.mean(colour) > 120 else (240.0, 238.0, 230.0)
    font, thick = cv2.FONT_HERSHEY_DUPLEX, max(2, edge // 90)
    (width, _), _ = cv2.getTextSize(text, font, 1.0, thick)
    scale = label[2] * edge / width
    (width, height), _ = cv2.getTextSize(text, font, min(scale, edge / 130), thick)
    at = (round(label[0] * edge - width / 2), round(label[1] * edge + height / 2))
    letters = np.zeros((edge, edge), np.uint8)
    cv2.putText(letters, text, at, font, min(scale, edge / 130), 255, thick, cv2.LINE_AA)
    cover = letters[..., None].astype(np.float32) / 255
    paint += (np.array(ink, np.float32) - paint) * cover


def _shading(parts: Image, form: str) -> NDArray[np.float32]:
    """(E, E) float32 factor: light from the upper left on a cylinder or on a plate with a rounded edge."""
    edge = len(parts)
    inside = cv2.distanceTransform((parts > 0).astype(np.uint8), cv2.DIST_L2, 3)
    height = np.sqrt(np.clip(inside / (edge * 0.05), 0, 1))
    slope = cv2.GaussianBlur(height, (0, 0), edge / 130)
    dx, dy = cv2.Sobel(slope, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(slope, cv2.CV_32F, 0, 1, scale=1 / 8)
    bevel = np.clip((dx + dy) * edge * 0.05, -0.45, 0.45)
    across = np.linspace(-1, 1, edge, dtype=np.float32)[None, :]
    if form == "round":
        columns = np.flatnonzero((parts > 0).any(axis=0))
        across = (np.arange(edge, dtype=np.float32)[None, :] - columns.mean()) / (np.ptp(columns) / 2 + 1)
        roll = 0.62 + 0.5 * np.sqrt(np.clip(1 - (0.85 * across + 0.25) ** 2, 0, 1))
        return (roll * (1 + 0.35 * bevel)).astype(np.float32)
    fall = np.linspace(0.06, -0.06, edge, dtype=np.float32)[:, None]
    return (1 + fall - 0.05 * across + bevel).astype(np.float32)


def _bleed(rgb: Image, alpha: Image) -> Image:
    """The colours of the inside carried a few pixels past the outline."""
    weight = (alpha > 200).astype(np.float32)
    spread = cv2.GaussianBlur(rgb * weight[..., None], (0, 0), 3) / (cv2.GaussianBlur(weight, (0, 0), 3) + 1e-4)[..., None]
    return np.where((alpha > 200)[..., None], rgb, np.clip(spread, 0, 255).astype(np.uint8))


def draw_attributes(config: WorldConfig, rng: np.random.Generator) -> Attributes:
    """A thing drawn at random from the clip's shapes."""
    noun = str(rng.choice(config.shapes))
    text = str(rng.choice(WORDS)) if SHAPES[noun].label and rng.random() < 0.45 else ""
    material = str(rng.choice(MATERIALS if not text else ("plain", "wooden", "metallic")))
    return Attributes(noun=noun, colour=str(rng.choice(list(COLOURS))), material=material, text=text, scale=float(rng.uniform(0.9, 1.15)))


def look_alike(thing: Attributes, config: WorldConfig, rng: np.random.Generator) -> Attributes:
    """The thing with one attribute changed: its colour, material, print, size or kind."""
    ways = ["colour", "material", "scale", "noun"] + ["text"] * bool(SHAPES[thing.noun].label)
    way = str(rng.choice(ways))
    if way == "scale":
        return replace(thing, scale=thing.scale * (1.55 if rng.random() < 0.5 else 0.62))
    if way == "text":
        return replace(thing, text=str(rng.choice([w for w in ("", *WORDS) if w != thing.text])))
    if way == "noun":
        fits = [n for n in config.shapes if n != thing.noun and (SHAPES[n].label or not thing.text)]
        return replace(thing, noun=str(rng.choice(fits))) if fits else look_alike(thing, config, rng)
    options = list(COLOURS) if way == "colour" else list(MATERIALS)
    return replace(thing, **{way: str(rng.choice([o for o in options if o != getattr(thing, way)]))})
