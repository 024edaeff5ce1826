"""What each set's evaluator computes, from its files, on dense masks. Imports nothing of egoray.

Each function returns {unit: (J, F)}, the units being what the evaluator averages over.
"""

import itertools
import json
from pathlib import Path

import numpy as np
from dense import boundary_f
from PIL import Image
from pycocotools import mask as coco


def picture(path):
    return np.asarray(Image.open(path))


def j_and_f(gold, predicted, judged=True):
    """Means over frames of ``(N, H, W)`` stacks; pixels that are not judged belong to nobody."""
    gold, predicted = gold & judged, predicted & judged
    both, either = (gold & predicted).sum((1, 2)), (gold | predicted).sum((1, 2))
    j = [b / e if e else 1.0 for b, e in zip(both, either, strict=True)]
    return float(np.mean(j)), float(np.mean([boundary_f(g, p) for g, p in zip(gold, predicted, strict=True)]))


def lists(meta, mask_dict, predictions):
    """MeViS and ReVOS: all that an expression means is one mask."""
    masks = json.loads(Path(mask_dict).read_text())
    found = {}
    for video, entry in json.loads(Path(meta).read_text())["videos"].items():
        for exp, value in entry["expressions"].items():
            predicted = np.array([picture(Path(predictions) / video / exp / f"{f}.png") > 0 for f in entry["frames"]])
            gold = np.zeros_like(predicted)
            for i, anno in itertools.product(range(len(gold)), value["anno_id"]):
                if masks[str(anno)][i]:
                    gold[i] |= coco.decode(masks[str(anno)][i]).astype(bool)
            found[video, exp] = j_and_f(gold, predicted)
    return found


def reason(root, predictions):
    """ReasonVOS: the frames of the annotation's folder."""
    found = {}
    for video, entry in json.loads((Path(root) / "meta_expressions.json").read_text())["videos"].items():
        for value in entry["expressions"]:
            name = f"{entry['source']}_{video}_{value['obj_id']}"
            paths = sorted((Path(root) / "Annotations" / name).glob("*.png"))
            gold = np.array([picture(path) > 0 for path in paths])
            predicted = np.array([picture(Path(predictions) / name / str(value["exp_id"]) / path.name) > 0 for path in paths])
            found[video, str(value["exp_id"])] = j_and_f(gold, predicted)
    return found


def merge(predictions, video, frames, num_objects, annotator):
    """The picture a frame that goes to the DAVIS evaluator: the most certain object, the background being certain by 0.1."""
    stack = []
    for obj in range(num_objects):
        folder = Path(predictions) / video / str(4 * obj + annotator)
        certain = np.array([picture(folder / f"{frame}.png") for frame in frames]) / 100
        stack.append(np.where(certain < 0.5, 0, certain))
    return np.argmax(np.concatenate([np.full_like(stack[0], 0.1)[None], np.array(stack)]), 0)


def davis(root, predictions, merged=merge):
    """Ref-DAVIS17: for each annotator the best one-to-one choice of proposals, over all permutations."""
    found = {}
    for video, entry in json.loads((Path(root) / "meta_expressions/valid/meta_expressions.json").read_text())["videos"].items():
        numbers = np.array([picture(Path(root) / "valid/Annotations" / video / f"{f}.png") for f in entry["frames"]])
        judged = numbers != 255
        count = np.where(judged, numbers, 0)[0].max()
        for annotator in range(4):
            answer = merged(predictions, video, entry["frames"], len(entry["expressions"]) // 4, annotator)
            num_proposals = max(answer.max(), count)
            pairs = {(g, p): j_and_f(numbers == g + 1, answer == p + 1, judged) for g in range(count) for p in range(num_proposals)}
            choices = [[pairs[g, p] for g, p in enumerate(choice)] for choice in itertools.permutations(range(num_proposals), int(count))]
            best = max(choices, key=lambda choice: sum(j + f for j, f in choice))
            found |= {(video, annotator, g): value for g, value in enumerate(best)}
    return found


def davis_alone(root, predictions):
    """Ref-DAVIS17, each expression by itself."""
    found = {}
    for video, entry in json.loads((Path(root) / "meta_expressions/valid/meta_expressions.json").read_text())["videos"].items():
        numbers = np.array([picture(Path(root) / "valid/Annotations" / video / f"{f}.png") for f in entry["frames"]])
        for exp, value in entry["expressions"].items():
            predicted = np.array([picture(Path(predictions) / video / exp / f"{f}.png") >= 50 for f in entry["frames"]])
            found[video, exp] = j_and_f(numbers == int(value["obj_id"]), predicted)
    return found
