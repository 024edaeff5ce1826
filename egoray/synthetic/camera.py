"""The head that carries the camera: which side of the room it attends, its fixations and turns, and its pose in each frame.

World axes: x right, y up, z ahead, metres, the person near the origin. Camera axes: x right, y down, z ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.knobs import WorldConfig

Floats = NDArray[np.float64]

NUM_SIDES = 5
"""The room is a regular polygon of this many walls with a counter along each, the person in the middle."""

FOCAL = 0.72
"""Focal length over image width: about 70 degrees from left to right."""

COUNTER_M = -0.47
"""Height of the counters; the eye is at 0."""

_LOOKED_AT_M = 0.9  # from the middle of the room to where a gaze at a counter meets it
_SPLIT = 1.4  # appearances a visit makes: the quick movements within it leave and find the object again; measured


@dataclass(frozen=True, slots=True)
class Dwell:
    """Native frames ``start <= i < stop`` spent on one side of the room."""

    side: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera: ``rotation`` (3, 3) takes world to camera axes, ``position`` (3,) metres, ``focal_px``."""

    rotation: Floats
    position: Floats
    focal_px: float
    size_hw: tuple[int, int]

    @property
    def intrinsics(self) -> Floats:
        """(3, 3) matrix from camera axes to homogeneous pixels; whole numbers are pixel centres."""
        height, width = self.size_hw
        return np.array([[self.focal_px, 0, (width - 1) / 2], [0, self.focal_px, (height - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True, slots=True)
class HeadMotion:
    """The pose in every native frame: ``rotation`` (N, 3, 3), ``position`` (N, 3), and the image's motion ``blur_px`` (N, 2)
    in x and y while the shutter is open."""

    rotation: Floats
    position: Floats
    blur_px: Floats


def target_sides(config: WorldConfig) -> int:
    """Over how many sides the annotated objects are spread, so that each side can have its share of the time."""
    return int(np.clip(1 / config.presence, 1, NUM_SIDES))


def side_axes(side: int) -> tuple[Floats, Floats]:
    """Unit vectors of a side: to the right along it and out towards it, both level."""
    angle = 2 * np.pi * side / NUM_SIDES
    return np.array([np.cos(angle), 0.0, -np.sin(angle)]), np.array([np.sin(angle), 0.0, np.cos(angle)])


def smooth_steps(times: Floats, starts: Floats, durations: Floats, values: Floats) -> Floats:
    """A track that moves to ``values[j]`` from ``starts[j]`` on, taking ``durations[j]``, and begins at ``values[0]``.

    ``times`` is (N,), the others are (J,); returns (N,).
    """
    jumps = np.diff(values)
    phase = np.clip((times[:, None] - starts[None, 1:]) / durations[None, 1:], 0, 1)
    return values[0] + (phase * phase * (3 - 2 * phase)) @ jumps


def wander(rng: np.random.Generator, num: int, scale: float) -> Floats:
    """(num,) smooth noise of unit variance whose memory is ``scale`` frames."""
    radius = int(3 * scale) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / scale) ** 2)
    return np.convolve(rng.standard_normal(num + 2 * radius), kernel / np.sqrt((kernel**2).sum()), mode="valid")


def plan_dwells(config: WorldConfig, rng: np.random.Generator) -> list[Dwell]:
    """Which side is attended when: every side with objects once, then at random in their shares; covers the clip."""
    num_targets = target_sides(config)
    share = np.full(NUM_SIDES, 0.0)
    share[:num_targets] = min(1.0, num_targets * config.presence) / num_targets
    share[num_targets:] = (1 - share.sum()) / max(1, NUM_SIDES - num_targets)
    share = np.clip(share, 0, None) / np.clip(share, 0, None).sum()
    # Drawing a side anew with its share p repeats it now and then; the shorter draw keeps the mean visit as asked.
    mean_s = 60 * config.presence / config.trajectories_per_min * _SPLIT * (1 - config.presence)
    first = list(rng.permutation(num_targets))
    dwells: list[Dwell] = []
    start = 0
    while start < config.num_frames:
        side = int(first.pop() if first else rng.choice(NUM_SIDES, p=share))
        stop = start + max(round(0.8 * config.fps), round(rng.gamma(2.0, mean_s / 2) * config.fps))
        stop = min(stop, config.num_frames)
        if dwells and dwells[-1].side == side:
            start = dwells.pop().start
        dwells.append(Dwell(side, start, stop))
        start = stop
    return dwells


def _gaze(config: WorldConfig, dwells: list[Dwell], lean: Floats, rng: np.random.Generator) -> Floats:
    """(J, 3) fixations: when each begins in seconds, its yaw and its pitch in degrees; ``lean`` metres of each dwell."""
    fixations: list[tuple[float, float, float]] = []
    yaw = 0.0
    for dwell, forward in zip(dwells, lean, strict=True):
        centre = 360.0 * dwell.side / NUM_SIDES
        lowered = float(np.rad2deg(np.arctan2(COUNTER_M, _LOOKED_AT_M - forward))) + 3
        time, stop = dwell.start / config.fps, dwell.stop / config.fps
        while time < stop:
            length = max(0.3, rng.gamma(2.0, config.fixation_s / 2))
            aim_yaw, aim_pitch = centre + rng.normal(0, config.jerk_deg), lowered + rng.normal(0, 0.6 * config.jerk_deg)
            if rng.random() < config.glances_per_min * length / 60:
                aim_yaw += rng.choice([-1, 1]) * rng.uniform(50, 100)
                aim_pitch += rng.uniform(-5, 20)
                length = rng.uniform(0.6, 1.3)
            yaw += (aim_yaw - yaw + 180) % 360 - 180  # the shorter way round
            fixations.append((time, yaw, aim_pitch))
            time += length
    return np.array(fixations)


def plan_motion(config: WorldConfig, dwells: list[Dwell], rng: np.random.Generator) -> HeadMotion:
    """The camera's pose in every frame: fixations joined by quick turns, a slow sway, leaning in, and the bob of steps."""
    num, fps = config.num_frames, config.fps
    times = np.arange(num) / fps
    lean, aside = rng.uniform(0.0, 0.22, len(dwells)), rng.normal(0, 0.06, len(dwells))
    starts, yaws, pitches = _gaze(config, dwells, lean, rng).T
    turn_s = 0.15 + np.hypot(np.diff(yaws, prepend=yaws[0]), np.diff(pitches, prepend=pitches[0])) / 320
    yaw, pitch = (smooth_steps(times, starts, turn_s, values) for values in (yaws, pitches))

    visits = np.array([d.start / fps for d in dwells])
    walk_s = np.full(len(visits), 0.9)
    stride = np.zeros(num)  # 1 while the person steps from one side to the next
    for start in visits[1:]:
        stride = np.maximum(stride, np.exp(-0.5 * ((times - start - 0.4) / 0.35) ** 2))
    axes = [side_axes(d.side) for d in dwells]
    spots = np.array([right * a + out * b for (right, out), a, b in zip(axes, aside, lean, strict=True)])
    position = np.stack([smooth_steps(times, visits, walk_s, spots[:, k]) for k in range(3)], axis=1)

    sway = config.sway_deg
    bob = np.sin(2 * np.pi * 1.9 * times + rng.uniform(0, 6))
    yaw = yaw + sway * wander(rng, num, 0.5 * fps) + 0.4 * sway * stride * np.sin(np.pi * 1.9 * times)
    pitch = pitch + 0.7 * sway * wander(rng, num, 0.5 * fps) + 0.6 * sway * stride * bob
    roll = 1.5 * sway * wander(rng, num, 0.8 * fps)
    position += 0.012 * sway * np.stack([wander(rng, num, 0.7 * fps) for _ in range(3)], axis=1)
    position[:, 1] += 0.012 * sway * stride * bob

    focal = FOCAL * config.size_hw[1]
    yaw, pitch, roll = (np.deg2rad(angle) for angle in (yaw, pitch, roll))
    open_frames = config.shutter_s * fps
    speed = np.stack([-np.gradient(yaw) * np.cos(pitch), np.gradient(pitch)], axis=1) if num > 1 else np.zeros((1, 2))
    return HeadMotion(_rotations(yaw, pitch, roll), position, speed * focal * open_frames)


def _rotations(yaw: Floats, pitch: Floats, roll: Floats) -> Floats:
    """(N, 3, 3) world-to-camera rotations; yaw turns right, pitch looks up, roll tilts the head, radians."""
    ahead = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=1)
    right = np.stack([np.cos(yaw), np.zeros_like(yaw), -np.sin(yaw)], axis=1)
    down = np.cross(right, ahead)  # y up: ahead x right is up
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([cos * right + sin * down, cos * down - sin * right, ahead], axis=1)
