"""From light to a stored picture: vignette, exposure, white balance and the sensor's noise."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from egoray.synthetic.camera import wander
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.quads import Image

_MARGIN = 64  # how much larger than a frame the noise is that each frame cuts its own from


class Lens:
    """How one clip's camera keeps a picture; exposure hunts slowly and the white balance drifts.

    Args:
        config: ``light`` and ``noise`` set the strengths.
        rng: the clip's own; used up here, so that frames may be asked in any order.
    """

    def __init__(self, config: WorldConfig, rng: np.random.Generator) -> None:
        self._config = config
        num, fps = config.num_frames, config.fps
        exposure = rng.normal(0, 0.07) + 0.09 * wander(rng, num, 1.2 * fps)
        warmth = rng.normal(0, 0.05) + 0.025 * wander(rng, num, 3.0 * fps)
        self._gains = np.exp(config.light * (exposure[:, None] + warmth[:, None] * [1.0, 0.0, -1.0]))
        self._cuts = rng.integers(0, _MARGIN, (num, 2))
        self._noise_seed = int(rng.integers(2**62))

    def expose(self, index: int, light: Image) -> Image:
        """Native frame ``index`` as stored, of the ``(H, W, 3)`` uint8 light that reached the lens."""
        tone = np.arange(256)[:, None] * self._gains[index]
        rolled = 255 * (1 - np.exp(-1.9 * tone / 255)) / (1 - np.exp(-1.9))  # highlights bend before they clip
        table = np.clip(0.55 * tone + 0.45 * rolled, 0, 255).astype(np.uint8)[None]
        seen = cv2.LUT(cv2.multiply(light, self._vignette, scale=1 / 255), table)
        y, x = self._cuts[index]
        cut = slice(y, y + seen.shape[0]), slice(x, x + seen.shape[1])
        more, less = self._noise
        return cv2.subtract(cv2.add(seen, more[cut]), less[cut])

    @cached_property
    def _noise(self) -> tuple[Image, Image]:
        """What the noise adds and what it takes away."""
        height, width = self._config.size_hw
        rng = np.random.Generator(np.random.PCG64(self._noise_seed))
        grain = rng.standard_normal((height + _MARGIN, width + _MARGIN, 3), dtype=np.float32) * np.float32(self._config.noise)
        return np.rint(np.clip(grain, 0, 255)).astype(np.uint8), np.rint(np.clip(-grain, 0, 255)).astype(np.uint8)

    @cached_property
    def _vignette(self) -> Image:
        height, width = self._config.size_hw
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        fall = np.rint(255 * (1 - 0.16 * (x * x + y * y))).astype(np.uint8)
        return cv2.merge([fall, fall, fall])
