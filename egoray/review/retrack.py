"""A person's mask taken further: the tracking engine follows it through the rest of the appearance."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from egoray.core.boxes import clip_box
from egoray.core.masks import decode, encode
from egoray.core.patch import Patch
from egoray.core.video import Image
from egoray.models.base import Prompt, TrackRequest, VideoTracker
from egoray.review import clicks
from egoray.review.annotations import Subject
from egoray.review.frames import Frames
from egoray.schema import Box, MaskRLE, Trajectory

_BLOCK = 32
"""Frames decoded at a time on the way back."""


class Engine:
    """The tracker behind the page; one request at a time.

    Args:
        tracker: follows masks.
        frames: reads the clips.
        takes_clicks: whether the tracker turns clicks into masks itself; else GrabCut does.
    """

    def __init__(self, tracker: VideoTracker, frames: Frames, *, takes_clicks: bool) -> None:
        self.tracker, self.frames, self.takes_clicks = tracker, frames, takes_clicks
        self._busy = threading.Lock()

    def segment(
        self,
        subject: Subject,
        frame: int,
        *,
        inside: Sequence[clicks.Point],
        outside: Sequence[clicks.Point],
        box: Box | None,
        before: MaskRLE | None,
    ) -> MaskRLE:
        """The mask in one frame that clicks (x, y) in pixels and a box ask for; ``before`` is the one to mend.

        Raises:
            ModelError, FormatError: if the model or the clip fails.
            ValueError: if nothing says where the object is.
        """
        image = self.frames.images(subject.video, range(frame, frame + 1))[0][1]
        with self._busy:
            if not self.takes_clicks:
                around = box or subject.track.boxes.get(frame)
                found = clicks.segment(image, inside=inside, outside=outside, box=around, before=decode(before) if before else None)
                return encode(found)
            prompt = Prompt(box=box, points=(*inside, *outside), labels=(1,) * len(inside) + (0,) * len(outside))
            boxes = {0: box} if box else {}
            request = TrackRequest(key="object", start=0, stop=1, prompts={0: prompt}, boxes=boxes)
            _, tracked = next(self.tracker.track([(0, image)], [request]))
            return tracked["object"].patch.encode()

    def follow(self, subject: Subject, frame: int, verified: Mapping[int, MaskRLE], *, back: bool = False) -> dict[int, MaskRLE]:
        """New masks from ``frame`` to the end of its appearance, or to its start with ``back``, cut to the boxes.

        ``verified`` are the masks that a person stands for, that of ``frame`` among them: the tracker is told them, and none of
        their frames is in the result. A frame in which the object is not found has an empty mask.

        Raises:
            ModelError, FormatError: if the model or the clip fails.
            ValueError: if the frame is in no appearance, or its mask is not among the verified.
        """
        trajectory = next((t for t in subject.trajectories if t.start <= frame < t.stop), None)
        if trajectory is None:
            raise ValueError("the object has no appearance here; tracking goes on within an appearance")
        if frame not in verified:
            raise ValueError("correct or lock this frame first; tracking goes on from a frame that you stand for")
        span = range(trajectory.start, frame + 1) if back else range(frame, trajectory.stop)
        guides = subject.track.boxes
        order = list(reversed(span)) if back else list(span)
        place = {f: n for n, f in enumerate(order)}
        prompts = {place[f]: Prompt(mask=decode(rle)) for f, rle in verified.items() if f in place}
        request = TrackRequest(key="object", start=0, stop=len(order), prompts=prompts, boxes={place[f]: guides[f] for f in order})
        found = {}
        with self._busy:
            for n, tracked in self.tracker.track(self._read(subject, trajectory, order, back), [request]):
                box = clip_box(guides[order[n]], tracked["object"].patch.size_hw)
                if order[n] not in verified:
                    patch = tracked["object"].patch
                    found[order[n]] = (patch.inside(box) if box else Patch.empty(patch.size_hw)).encode()
        return found

    def _read(self, subject: Subject, trajectory: Trajectory, order: Sequence[int], back: bool) -> Iterator[tuple[int, Image]]:
        """The frames in the order given, numbered from 0."""
        number = 0
        for start in range(0, len(order), _BLOCK):
            part = order[start : start + _BLOCK]
            images = self.frames.images(subject.video, range(min(part), max(part) + 1))
            for _, image in reversed(images) if back else images:
                yield number, image
                number += 1


def masks_of(subject: Subject, changed: Mapping[int, MaskRLE], locked: set[int]) -> dict[int, MaskRLE]:
    """The masks that a person stands for: on the locked frames, as they are now; an empty one where there is none."""
    size_hw = (subject.video.height_px, subject.video.width_px)
    return {frame: changed.get(frame) or subject.masks.get(frame) or encode(np.zeros(size_hw, bool)) for frame in locked}
