"""The room and what lies in it: which thing stands where, the counters' colours, and the surfaces as textured rectangles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from egoray.synthetic.camera import COUNTER_M, NUM_SIDES, side_axes, target_sides
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.objects import COLOURS, Attributes, draw_attributes, look_alike
from egoray.synthetic.quads import Image, Quad
from egoray.synthetic.shapes import SHAPES
from egoray.synthetic.surfaces import TEXTURES, Colour, Textures, paint_front, paint_top, paint_wall

_FAR_M, _NEAR_M = 1.35, 0.42  # the counter's edges, from the middle of the room
_WIDTH_M = 2 * _FAR_M * np.tan(np.pi / NUM_SIDES)
_CEILING_M, _FLOOR_M = 1.6, -1.5
_PX_PER_M = 330
_ROWS_M, _COLUMNS_M = (0.68, 0.9, 1.12), (-0.45, -0.15, 0.15, 0.45)
_NATURAL_AREA = 0.0150  # mean mask area, share of the frame, at the sizes of `SHAPES`: measured
_MIN_CONTRAST = 60.0  # RGB distance of an annotated thing to its counter, so that nothing is camouflaged


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in its place: its picture's rectangle on the counter of ``side``; ``seed`` paints it."""

    attributes: Attributes
    side: int
    quad: Quad
    annotated: bool
    seed: int


def furnish(config: WorldConfig, rng: np.random.Generator) -> tuple[tuple[Thing, ...], Room]:
    """Things in their places, the annotated ones first, and the room about them.

    No two things look the same, but for one pair at most that differs in size alone.
    """
    sides = target_sides(config)
    targets: list[Attributes] = []
    num_targets = int(rng.integers(config.num_objects[0], config.num_objects[1] + 1))
    while len(targets) < num_targets:
        _add(targets, draw_attributes(config, rng))
    others: list[Attributes] = []
    for target in targets:
        for _ in range(rng.poisson(config.distractors_per_object)):
            _add(others, look_alike(target, config, rng), targets, twin=True)
    for _ in range(config.num_clutter):
        _add(others, draw_attributes(config, rng), targets)

    slots = _Slots(rng)
    start = int(rng.integers(sides))
    places = [slots.take((start + k) % sides, central=True) for k in range(len(targets))]
    places += [slots.take(int(rng.integers(NUM_SIDES)), central=False) for _ in others]
    things = tuple(
        Thing(thing, side, _place(thing, config, side, spot, rng), k < len(targets), int(rng.integers(2**62)))
        for k, (thing, (side, spot)) in enumerate(zip(targets + others, places, strict=True))
    )
    textures = TEXTURES[config.textures]
    near = [[COLOURS[t.attributes.colour] for t in things if t.annotated and t.side == side] for side in range(NUM_SIDES)]
    tops = [_top_colour(textures.tops, colours, rng) for colours in near]
    return things, Room(tops, textures, int(rng.integers(2**62)))


def _add(group: list[Attributes], thing: Attributes, also: Sequence[Attributes] = (), *, twin: bool = False) -> None:
    """Put the thing in the group unless another looks the same; a ``twin`` of another size may be the second of its looks."""
    same = [other for other in (*group, *also) if other.looks() == thing.looks()]
    if not same or (twin and len(same) == 1 and same[0].scale != thing.scale):
        group.append(thing)


class _Slots:
    """Free places on each side's counter, as (along, out) metres."""

    def __init__(self, rng: np.random.Generator) -> None:
        spots = [(x, z) for z in _ROWS_M for x in _COLUMNS_M]
        self._free = [[spots[k] for k in rng.permutation(len(spots))] for _ in range(NUM_SIDES)]

    def take(self, side: int, *, central: bool) -> tuple[int, tuple[float, float]]:
        """The side and a free place there, or on the next side that has one; the central ones in the front rows first."""
        side = next((k % NUM_SIDES for k in range(side, side + NUM_SIDES) if self._free[k % NUM_SIDES]), side)
        if not self._free[side]:
            raise ValueError(f"a room has {NUM_SIDES * len(_ROWS_M) * len(_COLUMNS_M)} places; ask for fewer objects or less clutter")
        best = min(self._free[side], key=lambda s: (abs(s[0]) > 0.3) + (s[1] > 1.0)) if central else self._free[side][-1]
        self._free[side].remove(best)
        return side, best


def _place(thing: Attributes, config: WorldConfig, side: int, spot: tuple[float, float], rng: np.random.Generator) -> Quad:
    shape = SHAPES[thing.noun]
    size = shape.size_m * thing.scale * np.sqrt(config.area_fraction / _NATURAL_AREA)
    right, out = side_axes(side)
    up = np.array([0.0, 1.0, 0.0])
    spot_m = right * (spot[0] + rng.uniform(-0.05, 0.05)) + out * (spot[1] + rng.uniform(-0.05, 0.05))
    if shape.standing:
        turn = rng.uniform(-0.35, 0.35)
        face = right * np.cos(turn) + out * np.sin(turn)
        return Quad.around(spot_m + up * (COUNTER_M + 0.46 * size), face * size, -up * size)
    turn = rng.uniform(-np.pi, np.pi)
    face, away = right * np.cos(turn) + out * np.sin(turn), out * np.cos(turn) - right * np.sin(turn)
    return Quad.around(spot_m + up * (COUNTER_M + 0.004), face * size, -away * size)


def _top_colour(choice: Sequence[Colour], things: Sequence[Colour], rng: np.random.Generator) -> Colour:
    """A counter's colour that stands apart from the things on it: the first that does, or the one that does best."""

    def contrast(top: Colour) -> float:
        return min((float(np.linalg.norm(np.subtract(top, thing))) for thing in things), default=np.inf)

    tops = [choice[k] for k in rng.permutation(len(choice))]
    return next((top for top in tops if contrast(top) >= _MIN_CONTRAST), max(tops, key=contrast))


class Room:
    """Walls, counters and cupboard fronts; each is painted when it is first seen."""

    def __init__(self, top_colours: Sequence[Colour], textures: Textures, seed: int) -> None:
        self._tops, self._textures, self._seed = top_colours, textures, seed
        self._paint: Callable[[int, str], Image] = cache(self._painted)

    def surfaces(self, yaw_rad: float) -> list[tuple[Quad, float, Image]]:
        """What a camera of this yaw may see, in drawing order: the rectangle, how much its lower edge is cut, its texture."""
        angles = (2 * np.pi * np.arange(NUM_SIDES) / NUM_SIDES - yaw_rad + np.pi) % (2 * np.pi) - np.pi
        seen = [side for side in range(NUM_SIDES) if abs(angles[side]) < np.deg2rad(85)]
        return [(_surface(side, part), _CUTS[part], self._paint(side, part)) for part in _CUTS for side in seen]

    def _painted(self, side: int, part: str) -> Image:
        rng = np.random.Generator(np.random.PCG64([self._seed, side, *part.encode()]))
        quad = _surface(side, part)
        width, height = (round(float(np.linalg.norm(edge)) * _PX_PER_M) for edge in (quad.right, quad.down))
        if part == "top":
            return paint_top(rng, height, width, self._tops[side], self._textures)
        paint = paint_wall if part == "wall" else paint_front
        return paint(rng, height, width, self._textures)


_CUTS = {"wall": 0.0, "top": (1 - _NEAR_M / _FAR_M) / 2, "front": 0.0}  # neighbouring counters meet in a mitre


@cache
def _surface(side: int, part: str) -> Quad:
    """The wall, the counter's top as a rectangle before its ends are cut, or the front under it."""
    right, out = side_axes(side)
    up = np.array([0.0, 1.0, 0.0])
    distance, height, width, down = {
        "wall": (_FAR_M, _CEILING_M, _WIDTH_M, up * (COUNTER_M - _CEILING_M)),
        "top": (_FAR_M, COUNTER_M, _WIDTH_M, out * (_NEAR_M - _FAR_M)),
        "front": (_NEAR_M, COUNTER_M, _WIDTH_M * _NEAR_M / _FAR_M, up * (_FLOOR_M - COUNTER_M)),
    }[part]
    return Quad(out * distance + up * height - right * width / 2, right * width, down)
