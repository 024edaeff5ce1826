"""The dataset card, ``README.md``: what is inside, its statistics beside the paper's, where it is from, what may be done with it."""

from __future__ import annotations

from typing import Any

from egoray.core.storage import Folder
from egoray.dataset.stats import FIGURES, PAPER, read_subjects, subject_sums, summarize
from egoray.evaluate.scores import ScoreSums

FORMAT_VERSION = "1.0"
"""Of the layout: the released one is 1.0; a change that its readers would notice is another number."""

_SHOWN = tuple(key for key in FIGURES if key not in ("disappear_absent_present", "adjacent_iou_either"))


def write_card(folder: Folder, record: dict[str, Any]) -> None:
    """Write ``README.md`` for the dataset in ``folder``, whose ``dataset.json`` is ``record``."""
    rows = []
    for name, (subjects, texts, videos) in read_subjects(folder.uri).items():
        sums = sum((subject_sums(subject) for subject in subjects), start=ScoreSums())
        rows.append((f"{name}, here", summarize(sums, len(subjects), texts, videos)))
        rows.append((f"{name}, paper", PAPER[name]))
    sources: dict[tuple[str, str], int] = {}
    for video in record["videos"].values():
        key = (video["tier"], video["source"])
        sources[key] = sources.get(key, 0) + 1
    reasons: dict[str, int] = {}
    for reason in record["left_out"].values():
        reasons[reason] = reasons.get(reason, 0) + 1
    statuses: dict[str, int] = {}
    for video in record["videos"].values():
        for status in video["status"].values():
            statuses[status or "not reviewed"] = statuses.get(status or "not reviewed", 0) + 1
    settings = record["settings"]
    rate = "1 frame" if settings["fps"] == 1 else f"{settings['fps']} frames"
    text = f"""---
pretty_name: EgoMask layout, built by egoray
license: other
task_categories: [mask-generation, image-segmentation]
tags: [egocentric, video, referring-expressions, spatiotemporal-grounding]
---

# Spatiotemporal grounding on egocentric video

Sentences and, for each, the object's mask on every frame. Layout of the EgoMask release (arXiv 2508.00518), format version
{record["format_version"]}; {rate} a second (RefEgo: 2), seed {settings["seed"]}. `egoray validate` checks the folder,
`sha256sum -c SHA256SUMS` its bytes; `dataset.json` says where each video is from.

## Statistics

Means over objects. Disappear: gaps over presence; adjacent IoU: both present.

{_table(("", *(FIGURES[key] for key in _SHOWN)), [(name, *(_cell(row.get(key)) for key in _SHOWN)) for name, row in rows])}

## Videos by source

{_table(("tier", "source", "videos"), [(*key, str(n)) for key, n in sorted(sources.items())])}

## Review

Objects of the videos above by what reviewers said of them (setting `reviewed: {settings["reviewed"]}`).

{_table(("status", "objects"), [(key, str(n)) for key, n in sorted(statuses.items())])}

## Left out

{_table(("reason", "objects"), [(key, str(n)) for key, n in sorted(reasons.items())]) if reasons else "Nothing."}

## Licence

Pictures from Ego4D may be passed on only under Ego4D's own licence, and RefEgo's annotations are CC BY-SA 4.0. To publish,
leave `JPEGImages` out and let each user fetch the clips with their own licence (`egoray obtain ego4d`).
"""
    folder.write_bytes("README.md", text.encode())


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
