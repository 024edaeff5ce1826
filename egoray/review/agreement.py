"""How far reviewers agree with each other and with the planted faults, and how fast they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from egoray.core.masks import area, iou
from egoray.review.drafts import mask_of
from egoray.review.log import draft_of, standing_of
from egoray.review.store import Store
from egoray.schema import MaskRLE

Generated = Callable[[str], Mapping[int, MaskRLE]]
"""The masks of an item as they were annotated, by frame."""


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Agreement of two people's labels of the same items beyond chance, at most 1; None without items.

    1.0 where both gave one and the same label throughout: chance would agree as well, but so did they.

    Source: Cohen 1960, (p_observed - p_chance) / (1 - p_chance).
    """
    num = len(first)
    if not num:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / num
    chance = sum(first.count(label) * second.count(label) for label in set(first)) / num**2
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def masklet_iou(first: Mapping[int, MaskRLE], second: Mapping[int, MaskRLE]) -> float | None:
    """Mean IoU over the frames that either has a mask in; a frame that only one has counts 0. None without frames."""
    frames = first.keys() | second.keys()
    return sum(iou(first[f], second[f]) if f in first and f in second else 0.0 for f in frames) / len(frames) if frames else None


def agreement(store: Store, generated: Generated) -> dict[str, Any]:
    """Figures on every reviewer and on every pair that shares items.

    Returns:
        ``reviewers``: name, decided, seconds an item (median), planted faults seen and caught (any verdict but accept or skip).
        ``pairs``: a, b, items, Cohen's kappa on accepted / fixed / rejected, and the mean mask IoU of the items that either fixed
        and neither rejected (None where there is none).
    """
    with store.reading() as db:
        items = {row["id"]: dict(row) for row in db.execute("SELECT * FROM items WHERE num_decided > 0 AND NOT gone")}
        standing = {item_id: [d for d in standing_of(db, item) if d.verdict != "skipped"] for item_id, item in items.items()}
        masks = {
            (d.item_id, d.reviewer): draft_of(db, items[d.item_id], d.reviewer, d.revision).masks
            for found in standing.values()
            for d in found
            if len(found) > 1
        }
    people: dict[str, dict[str, Any]] = {}
    shared: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for item_id, found in standing.items():
        for d in found:
            row = people.setdefault(d.reviewer, {"reviewer": d.reviewer, "decided": 0, "seconds": [], "planted": 0, "caught": 0})
            row["seconds"].append(d.seconds)
            if items[item_id]["planted"]:
                row["planted"] += 1
                row["caught"] += d.verdict != "accepted"
            else:
                row["decided"] += 1
        if not items[item_id]["planted"]:
            for pair in combinations(sorted(found, key=lambda d: d.reviewer), 2):
                shared.setdefault((pair[0].reviewer, pair[1].reviewer), []).append(pair)
    pairs = []
    for (a, b), found_pairs in sorted(shared.items()):
        overlaps = []
        for x, y in found_pairs:
            if "fixed" in (x.verdict, y.verdict) and "rejected" not in (x.verdict, y.verdict):
                base = generated(x.item_id)
                overlap = masklet_iou(*(_with(base, masks[d.item_id, d.reviewer]) for d in (x, y)))
                overlaps += [] if overlap is None else [overlap]
        kappa = cohens_kappa([x.verdict for x, _ in found_pairs], [y.verdict for _, y in found_pairs])
        mean = sum(overlaps) / len(overlaps) if overlaps else None
        pairs.append({"a": a, "b": b, "items": len(found_pairs), "kappa": kappa, "mask_iou": mean})
    for row in people.values():
        row["seconds"] = median(row["seconds"])
    return {"reviewers": [people[name] for name in sorted(people)], "pairs": pairs}


def _with(base: Mapping[int, MaskRLE], changed: Mapping[int, str]) -> dict[int, MaskRLE]:
    masks = dict(base) | {frame: mask_of(value) for frame, value in changed.items()}
    return {frame: rle for frame, rle in masks.items() if area(rle)}
