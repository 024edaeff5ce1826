"""Frames with one moving square, and its masks."""

import cv2
import numpy as np


def write_frames(folder, masks, num=6, absent=(), size_hw=(60, 80), side=20):
    """Paths of the frames; ``masks`` is filled in by frame name."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    ground = rng.integers(60, 120, (*size_hw, 3), dtype=np.uint8)
    paths = []
    for k in range(num):
        image, name = ground.copy(), f"{k:05d}"
        if k not in absent:
            row, col = 10 + 3 * k, 10 + 6 * k
            image[row : row + side, col : col + side] = (30, 30, 220)
            mask = np.zeros(size_hw, bool)
            mask[row : row + side, col : col + side] = True
            masks[name] = mask
        path = folder / f"{name}.png"
        cv2.imwrite(str(path), image)
        paths.append(str(path))
    return tuple(paths)
