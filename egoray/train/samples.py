"""What the grounding models are trained on: videos with sentences and masks, from any of the released layouts, under one type.

EgoMask-Train is grouped by object, as its authors train on it; the exocentric sets by video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoray.core import paths
from egoray.core.masks import decode, union
from egoray.core.storage import Folder
from egoray.core.video import Image, read_image
from egoray.errors import FormatError
from egoray.formats import rvos
from egoray.formats.egomask import read_train

EGOMASK = "egomask-train"
SOURCES = (EGOMASK, rvos.MEVIS, rvos.REVOS, rvos.REF_YOUTUBE, rvos.REF_DAVIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A text and the objects it means together; none for a sentence about nothing in the video."""

    text: str
    object_id: str
    targets: tuple[rvos.Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingClip:
    """A video with sentences: the unit that recipes draw.

    Attributes:
        root: the dataset's folder.
        source: one of `SOURCES`.
        video_id: of the set.
        frame_names: in time order.
        images: path of each frame.
        sentences: at least one.
    """

    root: str
    source: str
    video_id: str
    frame_names: tuple[str, ...]
    images: tuple[str, ...]
    sentences: tuple[Sentence, ...]

    @property
    def name(self) -> str:
        """What an error or a log calls it."""
        objects = {sentence.object_id for sentence in self.sentences}
        return f"{self.source}/{self.video_id}" + (f"/{objects.pop()}" if len(objects) == 1 else "")

    def image(self, frame: int) -> Image:
        """The frame, (H, W, 3) uint8 RGB.

        Raises:
            FormatError: if it is missing or damaged.
        """
        return read_image(self.images[frame])

    def mask(self, sentence: int, frame: int, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """(H, W) bool of all that the sentence means; all False where it is absent.

        Raises:
            FormatError: if a mask's file is missing, or its size is not ``size_hw``.
        """
        name = self.frame_names[frame]
        found = [masks[name] for t in self.sentences[sentence].targets if name in (masks := rvos.read_masks(self.root, t, [name]))]
        if not found:
            return np.zeros(size_hw, bool)
        merged = union(found)
        if merged.size != size_hw:
            raise FormatError(
                f"{self.name}, frame {name}: the mask is {merged.size[0]}x{merged.size[1]}, the image {size_hw[0]}x{size_hw[1]}"
            )
        return decode(merged)

    def present(self, sentence: int) -> NDArray[np.bool_]:
        """(frames,) bool, where the sentence's object shows; reads every annotation of a set whose masks are PNGs."""
        seen = [rvos.read_masks(self.root, target, self.frame_names).keys() for target in self.sentences[sentence].targets]
        return np.array([any(name in masks for masks in seen) for name in self.frame_names], bool)


def read_clips(root: str) -> list[TrainingClip]:
    """The training clips of a folder in any of the released layouts, in file order; objects and videos without a mask or sentence left out.

    Args:
        root: EgoMask-Train (or a dataset that holds ``egomask-train/``), MeViS, ReVOS, Ref-YouTube-VOS or Ref-DAVIS17.

    Raises:
        FormatError: if it holds none of these, or a file is missing or malformed.
    """
    if rvos.benchmark_of(root) in SOURCES:
        return list(_exocentric(root))
    folder = Folder(root)
    for at in (folder, folder / "egomask-train"):
        if at.exists("train/mask_dict.json"):
            return list(_egomask(at.uri))
    raise FormatError(
        f"{root}: no training set; expected train/mask_dict.json as in EgoMask-Train, or one of {', '.join(SOURCES[1:])} as released"
    )


def _egomask(root: str) -> Iterator[TrainingClip]:
    for video in read_train(root):
        images = tuple(paths.join(root, "train", "JPEGImages", video.video_id, f"{name}.jpg") for name in video.frame_names)
        for item in video.objects:
            target = (rvos.Target(object_id=item.object_id, masks=item.masks),)
            sentences = tuple(
                Sentence(text=e.text, object_id=e.object_id, targets=target) for e in video.expressions if e.object_id == item.object_id
            )
            if item.masks and sentences:
                yield TrainingClip(
                    root=root, source=EGOMASK, video_id=video.video_id, frame_names=video.frame_names, images=images, sentences=sentences
                )


def _exocentric(root: str) -> Iterator[TrainingClip]:
    by_video: dict[str, list[rvos.Question]] = {}
    for question in rvos.read(root, "train"):
        by_video.setdefault(question.item.video_id, []).append(question)
    for video_id, questions in by_video.items():
        sentences = tuple(
            Sentence(text=q.item.text, object_id=q.item.object_id, targets=q.targets or ()) for q in questions if q.targets is not None
        )
        if sentences:
            first = questions[0]
            yield TrainingClip(
                root=root,
                source=first.benchmark,
                video_id=video_id,
                frame_names=first.item.frame_names,
                images=first.images,
                sentences=sentences,
            )
