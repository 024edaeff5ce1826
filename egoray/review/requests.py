"""What the page sends, checked before anything looks at it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A key or a tab, made up by the page."""
Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x08\x0b-\x1f]*$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Login(_Request):
    """A reviewer's token."""

    token: Annotated[str, StringConstraints(max_length=200)]


class Tab(_Request):
    """Which tab speaks."""

    tab: Name


class Filters(_Request):
    """Which items are wanted; empty: any."""

    clip: Text = ""
    object_id: Text = ""
    status: Text = ""
    text: Text = ""


class Next(Tab):
    """The next item for a tab that holds ``keep``."""

    keep: Annotated[list[Name], Field(max_length=4)] = []
    filters: Filters = Filters()


class Step(Tab):
    """A change of the draft whose last known state is ``revision``; ``key`` lets it count once."""

    key: Name
    revision: Annotated[int, Field(ge=0)]


class MaskChange(_Request):
    """A frame's new mask as COCO run lengths; None: as generated."""

    kind: Literal["mask"]
    frame: Annotated[int, Field(ge=0)]
    counts: Annotated[str, StringConstraints(max_length=1_000_000)] | None


class LockChange(_Request):
    """A frame is verified, or open to the tracker again."""

    kind: Literal["lock"]
    frame: Annotated[int, Field(ge=0)]
    on: bool


class TextChange(_Request):
    """A sentence's new text; empty: drop the sentence; None: as generated."""

    kind: Literal["text"]
    expression_id: Text
    text: Text | None


class Edit(Step):
    """One step of changes."""

    changes: Annotated[
        list[Annotated[MaskChange | LockChange | TextChange, Field(discriminator="kind")]], Field(min_length=1, max_length=500)
    ]


class Retrack(Step):
    """Follow this frame's mask through the rest of its appearance."""

    frame: Annotated[int, Field(ge=0)]
    back: bool = False


Point = tuple[float, float]


class Segment(_Request):
    """Clicks and a box in a frame, in pixels; ``before`` are the run lengths of the mask to mend."""

    frame: Annotated[int, Field(ge=0)]
    inside: Annotated[list[Point], Field(max_length=100)] = []
    outside: Annotated[list[Point], Field(max_length=100)] = []
    box: tuple[float, float, float, float] | None = None
    before: Annotated[str, StringConstraints(max_length=1_000_000)] | None = None


class Decide(Step):
    """A verdict; ``reason`` is a digit of `verdicts.REASONS`."""

    verdict: Literal["accepted", "rejected", "skipped"]
    reason: Literal["", "1", "2", "3", "4", "5", "6", "7", "8", "9"] = ""
    note: Text = ""
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0


class Undo(Tab):
    """Take back the last decision."""

    key: Name


class Check(_Request):
    """A sentence as it is being written."""

    expression_id: Text
    text: Text
