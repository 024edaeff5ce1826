"""Groups of expressions whose figures explain a mean: how large the object is, how long it is there, how often it comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

AGE = "since_last_seen"
"""The slice of single gold frames, by how many frames ago the object was last there."""
AGES = ((0, "first seen"), (1, "next frame"), (5, "2 to 5 frames"), (20, "6 to 20 frames"))
"""Most frames since, and what that is called."""
AREAS = ((0.001, "below 0.1 %"), (0.005, "0.1 to 0.5 %"), (0.02, "0.5 to 2 %"))
PRESENCES = ((0.1, "below 10 %"), (0.25, "10 to 25 %"), (0.5, "25 to 50 %"))
TRAJECTORIES = ((2, "1"), (5, "2 to 4"), (10, "5 to 9"))


_ORDER = [name for _, name in (*AREAS, *PRESENCES, *TRAJECTORIES, *AGES)]


def in_order(values: Iterable[str]) -> list[str]:
    """The values of one slice as a table lists them: smaller first, the open end and ``none`` last."""
    return sorted(values, key=lambda v: (v == "none", v not in _ORDER, _ORDER.index(v) if v in _ORDER else 0, v))


def slices_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The slices that a row of `score_expression` belongs to: name → value.

    ``object_area`` is the mean share of the frame over gold frames, ``presence`` the share of frames with the object,
    ``num_trajectories`` its appearances; an object that is never there has ``none`` in each. ``kind`` is the expression's
    own, or its length in words.
    """
    if not row["num_gold"]:
        named = dict.fromkeys(("object_area", "presence", "num_trajectories"), "none")
    else:
        named = {
            "object_area": _below(row["object_area"], AREAS, "2 % and more"),
            "presence": _below(row["presence"], PRESENCES, "50 % and more"),
            "num_trajectories": _below(row["num_trajectories"], TRAJECTORIES, "10 and more"),
        }
    short = len(row["text"].split()) <= 10
    return named | {"kind": row["kind"] or ("10 words or fewer" if short else "more than 10 words")}


def _below(value: float, bounds: tuple[tuple[float, str], ...], rest: str) -> str:
    return next((name for bound, name in bounds if value < bound), rest)
