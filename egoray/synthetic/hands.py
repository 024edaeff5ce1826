"""The wearer's hand: its picture in two layers, and when it touches, lifts, carries along or puts away which thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.camera import Dwell, Floats, wander
from egoray.synthetic.knobs import WorldConfig

Image = NDArray[np.uint8]

HAND_SIZE_M = (0.24, 0.84)
"""Width and height of the picture, fingers at the top, forearm downwards."""

GRIP = (0.44, 0.13)
"""Where a held thing sits in the picture, shares of its width and height."""

_SKINS = ((232, 188, 158), (214, 162, 128), (186, 132, 98), (146, 98, 70), (100, 66, 48))
_WIDTH, _HEIGHT = 320, 1120
_REACH_S, _LIFT_S = 0.4, 0.6


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture with an outline: ``rgb`` (H, W, 3) and ``alpha`` (H, W), uint8."""

    rgb: Image
    alpha: Image


def paint_hand(rng: np.random.Generator) -> tuple[Layer, Layer]:
    """A right hand and arm behind what it holds, and the thumb in front of it."""
    skin = np.array(_SKINS[rng.integers(len(_SKINS))], np.float32)
    sleeve, cuff = rng.uniform(30, 190, 3).astype(np.float32), rng.uniform(1.3, 2.2)
    behind, front = _Body(), _Body()
    behind.limb([(0.5, 1.0), (0.5, 3.6)], 0.30, skin * 0.96)
    behind.limb([(0.5, cuff), (0.5, 3.6)], 0.40, sleeve)
    behind.limb([(0.44, 0.84), (0.56, 0.84)], 0.40, skin)
    behind.limb([(0.47, 0.98), (0.53, 0.98)], 0.30, skin)
    for finger in (
        [(0.68, 0.74), (0.74, 0.54), (0.70, 0.40)],
        [(0.59, 0.68), (0.64, 0.40), (0.60, 0.26)],
        [(0.49, 0.66), (0.50, 0.34), (0.47, 0.20)],
        [(0.38, 0.68), (0.36, 0.40), (0.36, 0.27)],
    ):
        behind.limb(finger, 0.125, skin)
        behind.nail(finger[-1], skin)
    front.limb([(0.36, 0.90), (0.22, 0.70), (0.28, 0.52)], 0.14, skin)
    front.nail((0.28, 0.52), skin)
    return behind.layer(rng), front.layer(rng)


class _Body:
    """Limbs drawn one over another in units of the picture's width, each rounded by light."""

    def __init__(self) -> None:
        self._rgb = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
        self._mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)

    def limb(self, points: Sequence[tuple[float, float]], thickness: float, colour: Floats) -> None:
        part = np.zeros((_HEIGHT, _WIDTH), np.uint8)
        path = np.rint(np.array(points) * _WIDTH).astype(np.int32)
        cv2.polylines(part, [path], False, 255, round(thickness * _WIDTH))
        depth = cv2.distanceTransform(part, cv2.DIST_L2, 3) / (thickness * _WIDTH / 2)
        light = 0.55 + 0.5 * np.sqrt(np.clip(depth, 0, 1))
        self._rgb = np.where(part[..., None] > 0, colour * light[..., None], self._rgb)
        self._mask = np.maximum(self._mask, part)

    def nail(self, at: tuple[float, float], skin: Floats) -> None:
        spot = np.zeros((_HEIGHT, _WIDTH), np.float32)
        cv2.ellipse(spot, (round(at[0] * _WIDTH), round(at[1] * _WIDTH) - 6), (10, 13), 0, 0, 360, 0.6, cv2.FILLED)
        spot = cv2.GaussianBlur(spot, (0, 0), 1.5)[..., None]
        self._rgb += (np.minimum(skin * 1.12 + 14, 250) - self._rgb) * spot

    def layer(self, rng: np.random.Generator) -> Layer:
        blotch = cv2.resize(rng.standard_normal((56, 16)).astype(np.float32), (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
        inside = (self._mask > 0).astype(np.float32)[..., None]
        light = self._rgb * (1 + 0.03 * blotch[..., None]) * inside
        # The blur closes the creases between limbs and carries their colour past the outline.
        spread = cv2.GaussianBlur(light, (0, 0), 4) / (cv2.GaussianBlur(inside, (0, 0), 4)[..., None] + 1e-3)
        rgb = np.clip(np.where(inside > 0, 0.6 * light + 0.4 * spread, spread), 0, 255).astype(np.uint8)
        small = (_WIDTH // 2, _HEIGHT // 2)
        return Layer(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA), cv2.resize(self._mask, small, interpolation=cv2.INTER_AREA))


@dataclass(frozen=True, slots=True)
class Handling:
    """What the hand does in each of N native frames.

    Attributes:
        thing: (N,) int index of what it reaches for, -1 while it rests out of view.
        reach: (N,) 0 at rest to 1 at the thing.
        lift: (N,) 0 while the thing stands in its place to 1 while it is held before the camera.
        hold: (N, 3) where a held thing is, camera axes, metres.
        left: (N,) bool, the left hand rather than the right.
    """

    thing: NDArray[np.int64]
    reach: Floats
    lift: Floats
    hold: Floats
    left: NDArray[np.bool_]


def plan_handling(config: WorldConfig, dwells: Sequence[Dwell], sides: Sequence[int], rng: np.random.Generator) -> Handling:
    """Reaches drawn over the clip, each for a thing on the side attended (``sides[thing]``); one hand at a time."""
    num, fps = config.num_frames, config.fps
    times = np.arange(num) / fps
    thing, left = np.full(num, -1), np.zeros(num, bool)
    reach, lift, sunk = np.zeros(num), np.zeros(num), np.zeros(num)
    hold = np.array([0.05, 0.06, 0.5]) + np.stack([wander(rng, num, 0.35 * fps) for _ in range(3)], axis=1) * [0.035, 0.028, 0.02]
    free_s = 0.0
    for k, dwell in enumerate(dwells):
        start, stop = dwell.start / fps, dwell.stop / fps
        here = [index for index, side in enumerate(sides) if side == dwell.side]
        busy_s = stop - start
        if not here or start < free_s or busy_s < 2.0 or rng.random() > config.hands_per_min * busy_s / 60:
            continue
        kind = rng.choice(["touch", "lift", "carry", "away"], p=[0.5, 0.3, 0.1, 0.1])
        begin = start + rng.uniform(0.3, 0.4 * busy_s)
        end = begin + rng.uniform(0.9, max(1.0, min(4.0, stop - begin)))
        if kind in ("carry", "away"):  # put back during a long visit, else when its side is next attended, else never
            returns = (d.start / fps + 3.0 for d in dwells[k + 1 :] if d.side == dwell.side)
            end = begin + rng.uniform(6, 12)
            end = end if end < stop else next(returns, times[-1] + 9)
        elif kind == "lift":
            end = max(end, begin + 2 * (_REACH_S + _LIFT_S) + 0.5)
        free_s = end + 0.2
        busy = (times >= begin) & (times < end)
        thing[busy], left[busy] = rng.choice(here), rng.random() < 0.35
        reach[busy] = _ramp(times[busy], begin, end, _REACH_S)
        if kind != "touch":
            lift[busy] = _ramp(times[busy], begin + _REACH_S, end - _REACH_S, _LIFT_S)
        if kind == "away":
            sunk[busy] = _ramp(times[busy], begin + _REACH_S + _LIFT_S, end - _REACH_S - _LIFT_S, 0.5)
    hold[:, 0] = np.where(left, -hold[:, 0], hold[:, 0])
    hold[:, 1] += 0.6 * sunk
    return Handling(thing, reach, lift, hold, left)


def _ramp(times: Floats, start: float, stop: float, edge_s: float) -> Floats:
    """0 outside, 1 inside, with smooth edges of ``edge_s`` seconds within the range."""
    phase = np.clip(np.minimum(times - start, stop - times) / edge_s, 0, 1)
    return phase * phase * (3 - 2 * phase)
