"""Training clips of plain rectangles that move over grey, one of which the sentences mean."""

import numpy as np
from PIL import Image

from egoray.core.masks import encode
from egoray.formats.rvos import Target
from egoray.train.samples import EGOMASK, Sentence, TrainingClip


def rectangle_clip(folder, present, *, source=EGOMASK, texts=("the red box",), size_hw=(48, 64), meant=True):
    """A clip of ``len(present)`` frames: a blue rectangle in each, and a red one, which is meant, where ``present`` says so."""
    folder.mkdir(exist_ok=True)
    names, masks = [f"{5 * k:05d}" for k in range(len(present))], {}
    height, width = size_hw
    for k, (name, shown) in enumerate(zip(names, present, strict=True)):
        picture = np.full((height, width, 3), 128, np.uint8)
        picture[30:40, 5:20] = (30, 60, 220)
        top, left = 4 + k % 7, 8 + 5 * k % 32
        if shown:
            picture[top : top + 18, left : left + 22] = (220, 40, 30)
            mask = np.zeros(size_hw, bool)
            mask[top : top + 18, left : left + 22] = True
            masks[name] = encode(mask)
        Image.fromarray(picture).save(folder / f"{name}.png")
    targets = (Target(object_id="1", masks=masks),) if meant else ()
    return TrainingClip(
        root=str(folder),
        source=source,
        video_id="clip",
        frame_names=tuple(names),
        images=tuple(str(folder / f"{name}.png") for name in names),
        sentences=tuple(Sentence(text=text, object_id="1", targets=targets) for text in texts),
    )
