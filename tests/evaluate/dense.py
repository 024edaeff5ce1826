"""EgoMask's metrics from their definitions, on dense masks, one pixel after another where that is plainest. Imports nothing of egoray."""

import math

import numpy as np


def outline(mask):
    """Pixels of which the right, the lower or the lower right neighbour differs; beyond the border a pixel is its own neighbour,
    and on the last row only the right one counts, on the last column only the lower one."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = []
            if x + 1 < width:
                near.append(mask[y, x + 1])
            if y + 1 < height:
                near.append(mask[y + 1, x])
            if x + 1 < width and y + 1 < height:
                near.append(mask[y + 1, x + 1])
            out[y, x] = any(n != mask[y, x] for n in near)
    return out


def boundary_f(gold, predicted):
    reach = math.ceil(0.008 * math.sqrt(gold.shape[0] ** 2 + gold.shape[1] ** 2))
    a, b = (np.argwhere(outline(m)) for m in (gold, predicted))
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    recall, precision = (squared.min(1) <= reach**2).mean(), (squared.min(0) <= reach**2).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def box(mask):
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return cols[0], rows[0], cols[-1] + 1, rows[-1] + 1


def box_iou(a, b):
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return (
        both / sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        if not both
        else both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
    )


def metrics(gold, predicted):
    """Two ``(N, H, W)`` bool stacks."""
    there, found = gold.any((1, 2)), predicted.any((1, 2))
    iou = np.array([(g & p).sum() / (g | p).sum() if (g | p).any() else 1.0 for g, p in zip(gold, predicted, strict=True)])
    boxes = np.array([box_iou(box(g), box(p)) if g.any() and p.any() else 0.0 for g, p in zip(gold, predicted, strict=True)])
    f = np.array([boundary_f(g, p) for g, p in zip(gold, predicted, strict=True)])
    either = there | found
    mean = lambda values: float(values.mean()) if len(values) else None  # noqa: E731
    recall, precision = mean(found[there].astype(float)), mean(there[found].astype(float))
    if precision is None:
        precision = float(not there.any())
    hits = (there & found).sum()
    return {
        "T_recall": recall,
        "T_precision": precision,
        "T_f1": float(2 * hits / (there.sum() + found.sum())) if either.any() else 1.0,
        "T_accuracy": float((there == found).mean()),
        "IoU_all": mean(iou),
        "IoU_gold": mean(iou[there]),
        "IoU_gold_pred": mean(iou[either]),
        "J": mean(iou),
        "F": mean(f),
        "J&F": (mean(iou) + mean(f)) / 2,
        "vIoU": mean(boxes[either]),
        "tIoU": float(hits / either.sum()) if either.any() else None,
    }
