"""Small exocentric sets in their released layouts, and answers to them. Imports nothing of egoray."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

SIZE = (18, 24)
FRAMES = [f"{i:05d}" for i in range(5)]
PALETTE = np.random.default_rng(0).integers(0, 256, 768).tolist()  # a shorter one would be saved with too few bits for 255


def disk(rng, low=2, high=8):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (y - rng.uniform(2, SIZE[0] - 2)) ** 2 + (x - rng.uniform(2, SIZE[1] - 2)) ** 2 <= rng.uniform(low, high) ** 2


def write_json(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value))


def write_picture(path, values, palette=False):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        picture.putpalette(PALETTE)
    picture.save(path)


def rle(mask):
    found = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in found["size"]], "counts": found["counts"].decode()}


def write_images(folder):
    for frame in FRAMES:
        write_picture(Path(folder) / f"{frame}.jpg", np.zeros((*SIZE, 3)))


def _lists(rng, count):
    """``mask_dict.json``: a list an annotation, null where the object is absent."""
    return {str(n): [rle(disk(rng)) if rng.random() < 0.7 else None for _ in FRAMES] for n in range(count)}


def write_mevis(root, split="valid_u", seed=0):
    """Two videos; sentences about one object and about two."""
    rng = np.random.default_rng(seed)
    videos = {}
    for v in range(2):
        meant = [([1], [3 * v]), ([1, 2], [3 * v, 3 * v + 1]), ([3], [3 * v + 2])]
        expressions = {str(n): {"exp": f"the {n}", "obj_id": objects, "anno_id": annos} for n, (objects, annos) in enumerate(meant)}
        videos[f"vid{v}"] = {"frames": FRAMES, "vid_id": v, "expressions": expressions}
        write_images(Path(root) / split / "JPEGImages" / f"vid{v}")
    write_json(Path(root) / split / "meta_expressions.json", {"videos": videos})
    write_json(Path(root) / split / "mask_dict.json", _lists(rng, 6))
    return str(root)


def write_revos(root, seed=0):
    """One video named by a path; sentences that refer, that reason, and one about nothing that is there."""
    rng = np.random.default_rng(seed)
    expressions = {
        "0": {"exp": "the dog", "obj_id": 1, "anno_id": [4], "type_id": 0},
        "1": {"exp": "who may bark?", "obj_id": 1, "anno_id": [4, 5], "type_id": 1},
        "2": {"exp": "the unicorn", "obj_id": -1, "anno_id": [], "type_id": 2},
    }
    videos = {"UVO/all/-fb": {"frames": FRAMES, "height": SIZE[0], "width": SIZE[1], "expressions": expressions}}
    write_json(Path(root) / "meta_expressions_valid_.json", {"videos": videos})
    write_json(Path(root) / "mask_dict.json", _lists(rng, 6))
    write_images(Path(root) / "JPEGImages/UVO/all/-fb")
    return str(root)


def write_reason(root, seed=0):
    """Two videos; in the second the last frame has no annotation."""
    rng = np.random.default_rng(seed)
    videos = {}
    for v, source in enumerate(("mose", "burst")):
        sentences = [{"exp_id": n, "exp_text": f"what is {n}?", "obj_id": 1 + n // 2, "is_sent": n % 2 == 0} for n in range(3)]
        videos[f"a_{v}"] = {"source": source, "frames": FRAMES, "expressions": sentences}
        write_images(Path(root) / "JPEGImages" / f"a_{v}")
        for obj in (1, 2):
            for frame in FRAMES[: len(FRAMES) - v]:
                picture = 255 * disk(rng) if rng.random() < 0.7 else np.zeros(SIZE)
                write_picture(Path(root) / "Annotations" / f"{source}_a_{v}_{obj}" / f"{frame}.png", picture)
    write_json(Path(root) / "meta_expressions.json", {"videos": videos})
    return str(root)


def write_ytvos(root, split, num_objects, void=False, sentences=4, seed=0, described=None):
    """``num_objects`` a video in one PNG a frame, all there in the first; ``described`` of them have sentences."""
    rng = np.random.default_rng(seed)
    videos, meta = {}, {}
    for v, count in enumerate(num_objects):
        video, expressions = f"clip{v}", {}
        about = range(1, (described or num_objects)[v] + 1)
        for n, obj in enumerate(obj for obj in about for _ in range(sentences)):
            expressions[str(n)] = {"exp": f"{obj} said {n}", "obj_id": str(obj)}
        videos[video] = {"frames": FRAMES, "expressions": expressions}
        meta[video] = {"objects": {str(obj): {"category": "thing"} for obj in range(1, count + 1)}}
        write_images(Path(root) / split / "JPEGImages" / video)
        for i, frame in enumerate(FRAMES):
            numbers = np.zeros(SIZE, np.uint8)
            for obj in range(1, count + 1):
                if i == 0 or rng.random() < 0.8:
                    numbers[disk(rng)] = obj
            if void:
                numbers[disk(rng, 1, 4)] = 255
            if i == 0:
                numbers[:count, 0] = range(1, count + 1)  # nobody is covered
            write_picture(Path(root) / split / "Annotations" / video / f"{frame}.png", numbers, palette=True)
    write_json(Path(root) / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
    write_json(Path(root) / split / "meta.json", {"videos": meta})
    return str(root)


def write_davis(root, seed=0):
    """A video of three objects, of which two are described, and one of two; void pixels."""
    return write_ytvos(root, "valid", (3, 2), void=True, seed=seed, described=(2, 2))


def write_answers(root, folders, value=255, seed=1):
    """A disk or nothing a frame, in each of the folders ``<video>/<expression>``."""
    rng = np.random.default_rng(seed)
    for folder in folders:
        for frame in FRAMES:
            mask = disk(rng, 3, 12) if rng.random() < 0.8 else np.zeros(SIZE, bool)
            write_picture(Path(root) / folder / f"{frame}.png", (value or int(rng.integers(30, 101))) * mask)
    return str(root)
