"""The records that pass between stages: frozen, slotted, keyword-only, and easy to write as table rows.

Conventions: frame numbers are 0-based indices on the annotation grid (EgoTracks: 5 fps of a 30 fps clip, stride 6);
ranges are half-open; boxes are ``(x1, y1, x2, y2)`` in float pixels; masks are ``(H, W)`` bool; scores lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2), float pixels, x to the right and y down; a pixel is inside when floor(x1) <= x < ceil(x2), same in y."""

Tier = Literal["short", "medium", "long", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A video as it was opened: ``num_frames`` native frames of ``(height_px, width_px)`` at ``fps``.

    ``stride`` native frames make one annotation frame: annotation frame f is native frame ``f * stride``.
    """

    video_id: str
    uri: str
    num_frames: int
    fps: float
    height_px: int
    width_px: int
    source: str
    stride: int = 1

    @property
    def num_annotation_frames(self) -> int:
        """Number of frames on the annotation grid (0 for an empty video)."""
        return -(-self.num_frames // self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectTrack:
    """All boxes of one object in one clip: ``boxes[frame]`` on the annotation grid, ascending frames.

    Boxes are in pixels of an image of ``size_hw``; the empty case is a track without boxes.
    """

    video_id: str
    object_id: str
    title: str
    boxes: Mapping[int, Box]
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One unbroken appearance of an object: annotation frames ``start <= f < stop``, prompted by ``prompt_box``."""

    video_id: str
    object_id: str
    start: int
    stop: int
    prompt_frame: int
    prompt_box: Box

    @property
    def num_frames(self) -> int:
        """Frames from first to last, the gaps that the gap rule bridges included."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The unit of scheduling and of retry: some trajectories of one video and the frames they span."""

    shard_id: str
    video_id: str
    uri: str
    start: int
    stop: int
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRLE:
    """A mask in COCO's compressed run-length code: ``size`` is (height, width), runs are column-major from background."""

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Masklet:
    """The masks of one object over a video; a frame in which it is absent has no key in ``masks`` nor in ``scores``."""

    video_id: str
    object_id: str
    masks: Mapping[int, MaskRLE]
    scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A sentence that refers to one object of one video; ``review`` says why a person should look at it, empty for no doubt."""

    expression_id: str
    video_id: str
    object_id: str
    text: str
    kind: str
    source: str
    model: str = ""
    prompt_version: str = ""
    review: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundingItem:
    """A question of a benchmark: where is ``text`` in these frames? ``kind`` is how it was written, empty where no file says it."""

    video_id: str
    expression_id: str
    object_id: str
    text: str
    frame_names: tuple[str, ...]
    tier: str
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A unit that was lost, why, and whether trying again may help."""

    stage: str
    unit: str
    error: str
    message: str
    attempt: int
    retryable: bool


def to_row(record: Any) -> dict[str, Any]:
    """The record as a plain dict of its fields, nested records included (a table row, JSON-ready but for int keys)."""
    return asdict(record)
