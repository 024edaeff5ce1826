"""Hands that reach into view from below, hide what they touch, lift it, carry it about, and let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from egoray.synthetic.camera import Camera, Dwell, Floats
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.quads import Image, View

SKIN = ((224, 178, 148), (198, 146, 112), (150, 102, 74), (104, 70, 52))
SLEEVES = ((52, 62, 86), (112, 116, 120), (96, 52, 48), (62, 84, 70), (196, 190, 180))
_EDGE = 320
_TIP = (168.0, 60.0)  # where the fingers end in the picture
_SPAN_M = 0.36  # edge of the picture


@dataclass(frozen=True, slots=True)
class Reach:
    """Native frames ``start <= i < stop`` in which a hand goes to thing ``target`` and back.

    ``lift`` (3,) metres along, up and out is how far it carries the thing at its middle, zeros for a touch; ``grip`` is where it
    takes hold, in shares of the thing's two edges from its middle; ``lean`` is the slant of the arm.
    """

    start: int
    stop: int
    target: int
    lift: Floats
    grip: tuple[float, float]
    lean: float

    def _share(self, frame: int) -> float:
        return (frame - self.start) / max(1, self.stop - self.start)

    def drawn_back(self, frame: int) -> float:
        """1 when the hand is out of view, 0 while it holds the thing."""
        t = self._share(frame)
        ramp = min(1.0, min(t, 1 - t) / 0.28)
        return 1 - ramp * ramp * (3 - 2 * ramp)

    def carried(self, frame: int) -> Floats:
        """(3,) metres along, up and out by which the thing is away from its place."""
        return self.lift * float(np.sin(np.pi * np.clip((self._share(frame) - 0.28) / 0.44, 0, 1)) ** 2)


def plan_reaches(
    config: WorldConfig, dwells: Sequence[Dwell], sides: Sequence[int], weights: Floats, rng: np.random.Generator
) -> list[Reach]:
    """Reaches for things of the side that is looked at, one at a time; ``sides[k]`` is where thing k lies, ``weights`` (K,) how
    often it is wanted."""
    reaches: list[Reach] = []
    wait = 60 * config.fps / max(config.hands_per_min, 1e-9)
    for dwell in dwells:
        here = [k for k, side in enumerate(sides) if side == dwell.side]
        start = dwell.start + rng.exponential(wait)
        while here and start < dwell.stop:
            stop = start + rng.uniform(1.2, 2.6) * config.fps
            lifts = rng.random() < 0.6
            lift = np.array([rng.uniform(-0.12, 0.12), rng.uniform(0.06, 0.2), rng.uniform(-0.12, 0.05)]) * lifts
            grip = (float(rng.uniform(-0.1, 0.45)), float(rng.uniform(0.15, 0.55)))
            reaches.append(
                Reach(
                    int(start),
                    int(stop),
                    int(rng.choice(here, p=weights[here] / weights[here].sum())),
                    lift,
                    grip,
                    float(rng.uniform(-0.5, 0.5)),
                )
            )
            start = stop + rng.exponential(wait)
    return reaches


def paint_hand(rng: np.random.Generator) -> tuple[Image, Image]:
    """``rgb`` (E, E, 3) and ``alpha`` (E, E) uint8 of a forearm from the lower edge, with a hand whose fingers point up."""
    alpha, tone = np.zeros((_EDGE, _EDGE), np.uint8), np.zeros((_EDGE, _EDGE, 3), np.float32)
    skin, sleeve = (np.array(colours[rng.integers(len(colours))], np.float32) for colours in (SKIN, SLEEVES))
    fingers = [((136, 110), (112, 62)), ((152, 98), (140, 34)), ((168, 98), (168, 26)), ((184, 106), (196, 44)), ((190, 150), (226, 104))]
    for number in range(7):
        part = np.zeros_like(alpha)
        if number == 0:
            cv2.fillConvexPoly(part, np.array([(118, 319), (202, 319), (190, 190), (132, 190)]), 255, cv2.LINE_AA)
        elif number == 1:
            cv2.ellipse(part, (162, 140), (44, 56), 0, 0, 360, 255, -1, cv2.LINE_AA)
        else:
            cv2.line(part, *fingers[number - 2], 255, 24, cv2.LINE_AA)
        relief = cv2.GaussianBlur(cv2.erode(part, np.ones((9, 9), np.uint8)), (0, 0), 6).astype(np.float32) / 255
        colour = skin * rng.uniform(0.95, 1.05) * (0.72 + 0.33 * relief[..., None])
        tone = np.where(part[..., None] > 0, colour, tone)
        alpha = np.maximum(alpha, part)
    covered = np.arange(_EDGE)[:, None, None] > 232
    tone = np.where(covered, sleeve * tone.mean(axis=2, keepdims=True) / skin.mean(), tone) + rng.normal(0, 3, (_EDGE, _EDGE, 1))
    return np.clip(tone, 0, 255).astype(np.uint8), alpha


def see_hand(camera: Camera, reach: Reach, grip: Floats, index: int) -> View | None:
    """Where the hand's picture falls when it takes hold at ``grip`` (3,) metres; None when it is out of view."""
    point = camera.rotation @ (grip - camera.position)
    if point[2] < 0.2:
        return None
    (height, width), depth = camera.size_hw, max(0.45, float(point[2]))
    tip = (camera.intrinsics @ point)[:2] / point[2]
    edge = _SPAN_M * camera.focal_px / depth
    back = reach.drawn_back(index) * (height + 0.2 * edge - tip[1])
    cos, sin, scale = np.cos(0.5 * reach.lean), np.sin(0.5 * reach.lean), edge / _EDGE
    matrix = np.array([[scale * cos, -scale * sin, tip[0] + 0.5 * reach.lean * back], [scale * sin, scale * cos, tip[1] + back], [0, 0, 1]])
    matrix = matrix @ np.array([[1, 0, -_TIP[0]], [0, 1, -_TIP[1]], [0, 0, 1]])
    corners = (matrix @ np.array([[0, _EDGE, _EDGE, 0], [0, 0, _EDGE, _EDGE], [1, 1, 1, 1]]))[:2].T
    x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x2 <= x1 or y2 <= y1:
        return None
    return View((slice(y1, y2), slice(x1, x2)), np.array([[1, 0, -x1], [0, 1, -y1], [0, 0, 1.0]]) @ matrix)
