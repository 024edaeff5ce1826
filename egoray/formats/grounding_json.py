"""Answers of a grounding model as JSON: what `egoray ground` writes and the served endpoint sends.

``frame`` is the 0-based native frame of the file that was asked about, ``time_s`` its time stamp; a frame without the object has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from egoray.core.masks import bounding_box
from egoray.schema import MaskRLE


def appearances(frames: Sequence[int], times_s: Sequence[float]) -> list[dict[str, float]]:
    """When a thing is in view: one {"start_s", "stop_s"} a run of consecutive frames; [] for no frame.

    Args:
        frames: ascending frames of the clip in which it was found.
        times_s: the time of each frame of the clip; a run stops when the next frame would begin.
    """
    step = (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    ends = [*times_s[1:], times_s[-1] + step] if times_s else []
    return [{"start_s": round(times_s[run[0]], 4), "stop_s": round(ends[run[-1]], 4)} for run in runs]


def answer_json(
    text: str, masks: Mapping[int, MaskRLE], scores: Mapping[int, float], times_s: Sequence[float], stride: int = 1
) -> dict[str, Any]:
    """One sentence's answer.

    Args:
        text: the sentence.
        masks: by frame of the clip.
        scores: confidence in [0, 1] by frame of the clip.
        times_s: the time of each frame of the clip.
        stride: native frames from one frame of the clip to the next.
    """
    found = sorted(masks)
    return {
        "text": text,
        "frames": [frame_json(frame * stride, times_s[frame], masks[frame], scores.get(frame)) for frame in found],
        "appearances": appearances(found, times_s),
    }


def frame_json(frame: int, time_s: float, mask: MaskRLE, score: float | None) -> dict[str, Any]:
    """One native frame of an answer, with its mask, the box around it, and the confidence in [0, 1] if there is one."""
    return {
        "frame": frame,
        "time_s": round(time_s, 4),
        "rle": {"size": list(mask.size), "counts": mask.counts},
        "box_xyxy": [round(v, 1) for v in bounding_box(mask)],
        "score": None if score is None else round(score, 4),
    }
