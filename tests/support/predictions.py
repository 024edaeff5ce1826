"""A small benchmark folder in EgoMask's layout, and predictions for it in the released evaluator's."""

import numpy as np

from egoray.core import masks
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, read_gold, read_items, write_benchmark, write_prediction
from egoray.schema import Expression

SIZE = (40, 60)


def disk(rng, radius=None):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx, r = rng.uniform(5, SIZE[0] - 5), rng.uniform(5, SIZE[1] - 5), radius or rng.uniform(2, 12)
    return (y - cy) ** 2 + (x - cx) ** 2 <= r * r


def write_dataset(root, num_videos=3, num_frames=12, tier="medium", seed=0):
    """``num_videos`` videos of two objects with two expressions each; returns ``root``."""
    rng = np.random.default_rng(seed)
    names = tuple(f"{5 * i:05d}" for i in range(num_frames))
    videos = []
    for v in range(num_videos):
        video_id = f"clip{v}--0" if tier == "medium" else f"clip{v}"
        objects = [
            BenchmarkObject(object_id=o, category="mug", masks={n: masks.encode(disk(rng)) for n in names if rng.random() < 0.5})
            for o in "12"
        ]
        texts = [
            ("1", "the red mug"),
            ("1", "the thing that one drinks from while sitting at the table over there"),
            ("2", "a pan"),
            ("2", "pan"),
        ]
        expressions = [
            Expression(expression_id=f"{video_id}/{i}", video_id=video_id, object_id=o, text=t, kind="", source="test")
            for i, (o, t) in enumerate(texts)
        ]
        videos.append(
            BenchmarkVideo(video_id=video_id, tier=tier, frame_names=names, objects=tuple(objects), expressions=tuple(expressions))
        )
    write_benchmark(str(root), videos)
    return str(root)


def write_predictions(root, dataset, split="medium", seed=1):
    """Shifted gold masks, some missed, some made up; a detection for every other expression; returns ``root``."""
    rng = np.random.default_rng(seed)
    for i, item in enumerate(read_items(dataset, split)):
        gold, found = read_gold(dataset, item), {}
        for name in item.frame_names:
            if name in gold and rng.random() < 0.8:
                found[name] = masks.encode(np.roll(masks.decode(gold[name]), rng.integers(-3, 4, 2), (0, 1)))
            elif rng.random() < 0.1:
                found[name] = masks.encode(disk(rng))
        at = int(rng.integers(len(item.frame_names)))
        box = {"frame_idx": at, "frame_name": item.frame_names[at], "labels": ["mug"], "input_boxes": [5.0, 5.0, 20.0, 20.0]}
        write_prediction(str(root), split, item, found, box if i % 2 else None)
    return str(root)
