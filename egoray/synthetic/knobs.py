"""What a synthetic clip is like: the settings from which `World` plans motion, objects, hands and light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from egoray.synthetic.shapes import SHAPES
from egoray.synthetic.surfaces import TEXTURES


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The knobs of a clip; the defaults give the presence, size and motion of EgoMask-Train's objects, a minute at a time.

    Source: EgoMask, the data set table (presence 21.56 %, mask area 1.20 %, 17 trajectories in 370 s, adjacent IoU 14.96 %).
    Ours are aims for the mean over objects on the 1 fps grid, reached within about a third.

    Attributes:
        seconds: length of the clip.
        fps: native frames a second.
        stride: native frames to one annotation frame.
        size_hw: (height, width) of a frame, pixels.
        presence: share of the time that an object's place is looked at.
        trajectories_per_min: appearances of an object a minute.
        area_fraction: mean mask area of a present object, share of the frame.
        jerk_deg: spread of the gaze about the place being looked at, one standard deviation.
        fixation_s: mean time between two quick head movements.
        sway_deg: slow wandering of the head, one standard deviation; the walking bob goes with it.
        glances_per_min: times the head turns away for a moment and comes back.
        num_objects: fewest and most annotated objects.
        distractors_per_object: mean number of look-alikes, each one attribute away.
        num_clutter: other things lying about.
        shapes: names in `SHAPES` to draw objects from.
        hands_per_min: times a hand reaches for something (touches, lifts, carries along or puts away).
        shutter_s: exposure time, which sets the length of motion blur; 0 for none.
        light: strength of exposure and white balance changes; 0 for constant light.
        noise: standard deviation of the sensor's noise, grey levels.
        textures: name in `TEXTURES` of what the room is made of.
    """

    seconds: float = 60.0
    fps: int = 30
    stride: int = 6
    size_hw: tuple[int, int] = (360, 640)
    presence: float = 0.22
    trajectories_per_min: float = 2.8
    area_fraction: float = 0.012
    jerk_deg: float = 5.5
    fixation_s: float = 1.2
    sway_deg: float = 1.2
    glances_per_min: float = 1.5
    num_objects: tuple[int, int] = (3, 5)
    distractors_per_object: float = 0.8
    num_clutter: int = 16
    shapes: tuple[str, ...] = field(default_factory=lambda: tuple(SHAPES))
    hands_per_min: float = 8.0
    shutter_s: float = 1 / 60
    light: float = 1.0
    noise: float = 2.0
    textures: str = "all"

    def __post_init__(self) -> None:
        positive = ("seconds", "fps", "stride", "area_fraction", "trajectories_per_min", "fixation_s")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if not 0 < self.presence <= 1:
            raise ValueError(f"presence is {self.presence}, must be in (0, 1]")
        if not 1 <= self.num_objects[0] <= self.num_objects[1]:
            raise ValueError(f"num_objects is {self.num_objects}, must be (fewest, most) from 1 up")
        if unknown := set(self.shapes) - set(SHAPES):
            raise ValueError(f"unknown shapes {sorted(unknown)}; choose from {sorted(SHAPES)}")
        if self.textures not in TEXTURES:
            raise ValueError(f"unknown textures {self.textures!r}; choose from {sorted(TEXTURES)}")
        if len(self.shapes) < 2:
            raise ValueError("shapes needs at least two names, or no two things could differ in kind")

    @property
    def num_frames(self) -> int:
        """Native frames of the clip (at least 1)."""
        return max(1, round(self.seconds * self.fps))

    @classmethod
    def exocentric(cls, **knobs: Any) -> Self:
        """A steady clip: objects in view nearly always, large, and where they were a second ago; ``knobs`` override."""
        steady: dict[str, Any] = {
            "presence": 0.98,
            "trajectories_per_min": 1.1,
            "area_fraction": 0.06,
            "jerk_deg": 0.5,
            "fixation_s": 3.0,
            "sway_deg": 0.35,
            "glances_per_min": 0.0,
            "num_objects": (1, 3),
            "num_clutter": 5,
            "distractors_per_object": 0.3,
            "hands_per_min": 1.0,
        }
        return cls(**(steady | knobs))
