"""Small folders in the released layouts of the exocentric benchmarks, with masks drawn from a seed."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

HEIGHT, WIDTH, FRAMES = 48, 64, 5
NAMES = [f"{n:05d}" for n in range(FRAMES)]


def rle(mask):
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in found["size"]], "counts": found["counts"].decode()}


def blob(rng, empty=0.2):
    """A filled rectangle, or nothing at all."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if rng.random() >= empty:
        y, x = rng.integers(0, HEIGHT - 14), rng.integers(0, WIDTH - 14)
        mask[y : y + rng.integers(6, 14), x : x + rng.integers(6, 14)] = True
    return mask


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    picture.putpalette([v for n in range(256) for v in (n, 255 - n, 7 * n % 256)])
    picture.save(path)


def write_images(folder):
    folder.mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(folder / f"{name}.jpg")


def write_ref_davis(root, objects=(2, 3), seed=0, void=True):
    """Two videos, four sentences an object; returns {video: (frames of palette maps)}."""
    root, rng, truth = Path(root), np.random.default_rng(seed), {}
    expressions = {}
    for v, num in enumerate(objects):
        video = f"clip{v}"
        write_images(root / "valid" / "JPEGImages" / video)
        maps = []
        for name in NAMES:
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            for o in range(1, num + 1):
                values[blob(rng)] = o
            if void:
                values[:3, :9] = 255
            write_png(root / "valid" / "Annotations" / video / f"{name}.png", values)
            maps.append(values)
        truth[video] = maps
        sentences = {str(4 * o + a): {"exp": f"thing {o} as {a} sees it", "obj_id": str(o + 1)} for o in range(num) for a in range(4)}
        expressions[video] = {"frames": NAMES, "expressions": sentences}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": expressions})
    return truth


def write_mevis(root, split="valid_u", seed=0, revos=False):
    """Two videos; one sentence means two objects; returns {(video, exp): [FRAMES masks]}."""
    root, rng, truth, table, videos = Path(root), np.random.default_rng(seed), {}, {}, {}
    number = 0
    for v in range(2):
        video = f"set/clip{v}" if revos else f"clip{v}"
        write_images(root / "JPEGImages" / video if revos else root / split / "JPEGImages" / video)
        masks = {}
        for _ in range(3):
            masks[number] = [blob(rng) for _ in NAMES]
            table[str(number)] = [rle(m) if m.any() else None for m in masks[number]]
            number += 1
        ids = sorted(masks)
        sentences = {}
        for e, mine in enumerate(([ids[0]], [ids[1], ids[2]])):
            sentences[str(e)] = {"exp": f"sentence {e}", "obj_id": list(range(len(mine))), "anno_id": mine} | (
                {"type_id": e} if revos else {}
            )
            truth[video, str(e)] = [np.any([masks[n][t] for n in mine], axis=0) for t in range(FRAMES)]
        videos[video] = {"frames": NAMES, "expressions": sentences}
    if revos:
        write_json(root / f"meta_expressions_{split}_.json", {"videos": videos})
        write_json(root / "mask_dict.json", table)
    else:
        write_json(root / split / "meta_expressions.json", {"videos": videos})
        write_json(root / split / "mask_dict.json", table)
    return truth


def write_reasonvos(root, seed=0):
    """Two videos with expressions as lists; masks of value 255; returns {(folder, exp): [FRAMES masks]}."""
    root, rng, truth, videos = Path(root), np.random.default_rng(seed), {}, {}
    for v, source in enumerate(("mose", "vipseg")):
        video = f"clip{v}"
        write_images(root / "JPEGImages" / video)
        masks = [blob(rng) for _ in NAMES]
        for name, mask in zip(NAMES, masks, strict=True):
            path = root / "Annotations" / f"{source}_{video}_1" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        listed = [{"exp_id": e, "exp_text": f"why {e}", "obj_id": 1, "is_sent": True} for e in range(2)]
        truth |= {(f"{source}_{video}_1", str(e)): masks for e in range(2)}
        videos[video] = {"source": source, "frames": NAMES, "expressions": listed}
    write_json(root / "meta_expressions.json", {"videos": videos})
    return truth


def write_answers(root, keys, seed=1, value=255):
    """A folder of PNGs for each of ``keys`` (tuples of path parts); returns {key: [FRAMES masks]}."""
    rng, answers = np.random.default_rng(seed), {}
    for key in keys:
        answers[key] = [blob(rng) for _ in NAMES]
        for name, mask in zip(NAMES, answers[key], strict=True):
            path = Path(root).joinpath(*key, f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * value).save(path)
    return answers
