"""What several people's verdicts on one item come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["accepted", "fixed", "rejected", "skipped"]
VERDICTS = ("accepted", "fixed", "rejected", "skipped")
STATUSES = ("open", *VERDICTS, "disputed")
REASONS = {
    "1": "mask on the wrong object",
    "2": "mask misses parts",
    "3": "mask spills over",
    "4": "flickers or jumps",
    "5": "object is not recognisable",
    "6": "box or title is wrong",
    "7": "sentences cannot be saved",
    "8": "private content",
    "9": "other (see note)",
}
"""Digit to press → why an item is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One person's verdict on one item; ``revision`` is the last of that person's edits that it covers (0: none)."""

    id: int
    item_id: str
    reviewer: str
    verdict: str
    reason: str
    note: str
    seconds: float
    revision: int
    data_version: str
    time: float


def status(standing: Sequence[Decision]) -> str:
    """The item's status given the latest decision of each person.

    A skip says nothing beside a verdict. Verdicts that differ are a dispute until more than half of them agree.
    """
    verdicts = Counter(d.verdict for d in standing if d.verdict != "skipped")
    if not verdicts:
        return "skipped" if standing else "open"
    verdict, votes = verdicts.most_common(1)[0]
    return verdict if 2 * votes > verdicts.total() else "disputed"


def winner(standing: Sequence[Decision]) -> Decision | None:
    """The decision that the status rests on, the latest of those that agree with it; None if open or disputed."""
    reached = status(standing)
    return max((d for d in standing if d.verdict == reached), key=lambda d: d.id, default=None)
