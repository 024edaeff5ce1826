"""Rendered training pictures on disk: shards of short clips with every thing's box, outline and attributes.

A shard is two files, ``NNNNN.blob`` (JPEG frames and PNG owner maps, end to end) and ``NNNNN.npz`` (where each begins, and the
truth). Shard k of a folder is a function of (textures, k) alone, so that any number of processes may fill the folder, in any
order, and a killed one leaves nothing that another would trust.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.objects import Attributes
from egoray.synthetic.world import MIN_VISIBLE_PX, World

Image = NDArray[np.uint8]

CLIP_FRAMES = 8
STRIDE = 6
"""Native frames between two of a clip: the 5 fps annotation grid."""

_WORLDS, _CLIPS = 16, 4  # a shard's worlds and the clips cut from each
_SEEDS = {"train": 7001, "test": 9001}


def training_config(textures: str, rng: np.random.Generator) -> WorldConfig:
    """A world of the given texture set: half are like the samples, half steadier, fuller or closer."""
    knobs: dict = {
        "seconds": 20.0,
        "textures": textures,
        "num_clutter": int(rng.integers(12, 40)),
        "distractors_per_object": float(rng.uniform(0.8, 2.5)),
        "num_objects": (3, 6),
        "hands_per_min": float(rng.uniform(8, 24)),
    }
    if rng.random() < 0.5:
        knobs |= {"area_fraction": float(rng.uniform(0.01, 0.05)), "jerk_deg": float(rng.uniform(0.5, 5.5))}
        knobs |= {"glances_per_min": 0.5, "sway_deg": float(rng.uniform(0.3, 1.2)), "fixation_s": float(rng.uniform(1.0, 3.0))}
    return WorldConfig(**knobs)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in one frame.

    Attributes:
        world: position of its world in the shard.
        boxes: (T, 4) float32 xyxy pixels around the visible part of each thing of the world; zeros where it is absent.
        pixels: (T,) int32 visible pixels, 0 where absent.
        held: (T,) bool, in the hand.
    """

    world: int
    boxes: NDArray[np.float32]
    pixels: NDArray[np.int32]
    held: NDArray[np.bool_]


def write_shard(folder: Path, textures: str, number: int) -> Path:
    """Render shard ``number`` of the texture set into the folder, unless it is there; returns its index file."""
    index, blob = folder / f"{number:05d}.npz", folder / f"{number:05d}.blob"
    if index.exists():
        return index
    rng = np.random.default_rng([_SEEDS[textures], number])
    ends, things, rows = [0], [], []
    mine = f".{os.getpid()}.part"
    with open(f"{blob}{mine}", "wb") as file:
        for world_number in range(_WORLDS):
            world = World(training_config(textures, rng), [_SEEDS[textures], number, world_number])
            things.append([asdict(thing) for thing in world.things])
            for start in rng.choice(world.num_frames - CLIP_FRAMES * STRIDE, _CLIPS, replace=False):
                for frame in range(start, start + CLIP_FRAMES * STRIDE, STRIDE):
                    owners = world.owners(frame)
                    rows.append((world_number, *_truth(owners, len(world.things), world.held(frame))))
                    picture = cv2.cvtColor(world.frame(frame), cv2.COLOR_RGB2BGR)
                    quality = int(rng.integers(75, 97))
                    ends.append(ends[-1] + file.write(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]))
                    ends.append(ends[-1] + file.write(cv2.imencode(".png", owners, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]))
    widest = max(len(row[1]) for row in rows)
    with open(f"{index}{mine}", "wb") as file:
        np.savez(
            file,
            ends=np.array(ends, np.int64),
            world=np.array([row[0] for row in rows], np.int32),
            boxes=np.stack([np.pad(row[1], ((0, widest - len(row[1])), (0, 0))) for row in rows]),
            pixels=np.stack([np.pad(row[2], (0, widest - len(row[2]))) for row in rows]),
            held=np.array([-1 if row[3] is None else row[3] for row in rows], np.int32),
            things=np.frombuffer(json.dumps(things).encode(), np.uint8),
        )
    os.replace(f"{blob}{mine}", blob)
    os.replace(f"{index}{mine}", index)
    return index


def _truth(owners: Image, num_things: int, held: int | None) -> tuple[NDArray[np.float32], NDArray[np.int32], int | None]:
    pixels = np.bincount(owners.ravel(), minlength=num_things + 1)[1 : num_things + 1].astype(np.int32)
    pixels[pixels < MIN_VISIBLE_PX] = 0
    boxes = np.zeros((num_things, 4), np.float32)
    for k in np.flatnonzero(pixels):
        x, y, width, height = cv2.boundingRect((owners == k + 1).astype(np.uint8))
        boxes[k] = (x, y, x + width, y + height)
    return boxes, pixels, held


class Shard:
    """One shard, read piece by piece.

    Frames are numbered 0 .. ``num_frames`` - 1; each run of `CLIP_FRAMES` of them is a clip.
    """

    def __init__(self, index: Path) -> None:
        self._blob = index.with_suffix(".blob")
        with np.load(index) as data:
            self._ends, self._world = data["ends"], data["world"]
            self._boxes, self._pixels, self._held = data["boxes"], data["pixels"], data["held"]
            listed = json.loads(data["things"].tobytes())
        self.things: list[list[Attributes]] = [[Attributes(**thing) for thing in world] for world in listed]

    @property
    def num_frames(self) -> int:
        """Frames in the shard."""
        return len(self._world)

    def truth(self, frame: int) -> Truth:
        """What is in the frame."""
        world = int(self._world[frame])
        num = len(self.things[world])
        held = np.zeros(num, bool)
        if self._held[frame] >= 0:
            held[self._held[frame]] = True
        return Truth(world, self._boxes[frame, :num], self._pixels[frame, :num], held)

    def picture(self, frame: int) -> Image:
        """The frame, (H, W, 3) uint8 RGB."""
        return cv2.cvtColor(cv2.imdecode(self._bytes(2 * frame), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def owners(self, frame: int) -> Image:
        """(H, W) uint8: k + 1 where ``things[world][k]`` shows, 0 elsewhere."""
        return cv2.imdecode(self._bytes(2 * frame + 1), cv2.IMREAD_UNCHANGED)

    def _bytes(self, piece: int) -> Image:
        return self._mapped[self._ends[piece] : self._ends[piece + 1]]

    @cached_property
    def _mapped(self) -> Image:
        return np.memmap(self._blob, np.uint8, mode="r")


class Shards:
    """The shards of a folder that are whole; those that appear later are found by `refresh`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Shard] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look for new shards."""
        for index in sorted(self._folder.glob("[0-9]*.npz")):
            if index.name not in self._open:
                self._open[index.name] = Shard(index)

    def __len__(self) -> int:
        return len(self._open)

    def draw(self, rng: np.random.Generator) -> Shard:
        """One of them at random.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not self._open:
            raise FileNotFoundError(f"{self._folder} holds no shards yet: no shards, no batches")
        return list(self._open.values())[rng.integers(len(self._open))]
