"""What one tracked object remembers of the frames before, and which of it the next frame attends to.

Source: SAM 2, section 4 (memory bank): the prompted frames, the last six frames' masks, the last fifteen object pointers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """One frame of one object.

    ``tokens`` ``(h * w, c)`` bfloat16 is the encoded mask, None once nothing may attend to it any more; ``pointer`` ``(C,)``
    the object pointer. ``score`` (a 0-d logit, positive where the object is seen) and ``iou`` (0-d, in [0, 1]) are the
    model's own judgement, on its device: a policy that reads them waits for it.
    """

    frame: int
    prompted: bool
    tokens: torch.Tensor | None
    pointer: torch.Tensor
    score: torch.Tensor
    iou: torch.Tensor

    def age(self, now: int) -> int:
        """Frames between this one and ``now``, in either direction."""
        return abs(now - self.frame)


@dataclass(frozen=True, slots=True, eq=False)
class Recall:
    """What one frame attends to.

    ``masks`` are (place, entry with tokens): place 0 is the frame before, 1 the one before that, the network's last place
    is that of prompted frames. ``pointers`` are (age in frames, entry).
    """

    masks: list[tuple[int, Remembered]]
    pointers: list[tuple[int, Remembered]]


class MemoryPolicy(Protocol):
    """Which frames enter memory. It sees one object at a time and holds no state of its own."""

    def recall(self, past: list[Remembered], now: int, num_masks: int, num_pointers: int) -> Recall:
        """What frame ``now`` attends to, of what `keep` left.

        Args:
            past: the object's remembered frames in the order of tracking; at least one is prompted.
            now: the frame about to be tracked.
            num_masks: places for masks, that of prompted frames included (`num_maskmem`).
            num_pointers: object pointers that the network was made for, the current frame's included.
        """
        ...

    def keep(self, past: list[Remembered], now: int, num_masks: int, num_pointers: int) -> list[Remembered]:
        """What may still be recalled after frame ``now``; memory is bounded by what this returns."""
        ...


@dataclass(frozen=True, slots=True)
class StockMemory:
    """SAM 2's own choice: every frame enters; the last ``num_masks - 1`` masks and ``num_pointers - 1`` pointers by age.

    Args:
        max_prompted: prompted frames to hold, the first one and the latest others. SAM 2 sets no bound, so that cost would
            grow with every prompt.
    """

    max_prompted: int = 8

    def recall(self, past: list[Remembered], now: int, num_masks: int, num_pointers: int) -> Recall:
        """See `MemoryPolicy.recall`."""
        prompted = [e for e in past if e.prompted]
        recent = sorted(((e.age(now), e) for e in past if not e.prompted), key=lambda pair: pair[0])
        masks = [(num_masks - 1, e) for e in prompted]
        masks += [(age - 1, e) for age, e in reversed(recent) if age < num_masks]
        pointers = [(e.age(now), e) for e in prompted] + [(age, e) for age, e in recent if age < num_pointers]
        return Recall(masks, pointers)

    def keep(self, past: list[Remembered], now: int, num_masks: int, num_pointers: int) -> list[Remembered]:
        """See `MemoryPolicy.keep`."""
        prompted = [e for e in past if e.prompted]
        dropped = {e.frame for e in prompted[1 : 1 - self.max_prompted or None]} if len(prompted) > self.max_prompted else set()
        kept = []
        for entry in past:
            if entry.prompted:
                if entry.frame not in dropped:
                    kept.append(entry)
            elif entry.age(now) < num_masks - 1:
                kept.append(entry)
            elif entry.age(now) < num_pointers - 1:
                kept.append(entry if entry.tokens is None else replace(entry, tokens=None))
        return kept


def stored_bytes(past: Iterable[Remembered]) -> int:
    """Bytes of the tensors that the entries hold."""
    return sum(t.numel() * t.element_size() for e in past for t in (e.tokens, e.pointer) if t is not None)
