"""A clip that is never stored: things in a room, a head that looks about, hands, light. Any frame, and its exact masks, at any time.

The truth of a frame is what an ideal, instant camera sees: of each thing, the pixels that it covers by at least half and that
nothing nearer covers by half. Blur, light and noise come after and change no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.camera import FOCAL, Camera, plan_dwells, plan_motion, side_axes, wander
from egoray.synthetic.hands import paint_hand, plan_reaches, see_hand
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.objects import Attributes, Sprite
from egoray.synthetic.quads import Image, Quad, View, blend, cover, look, outline, smear
from egoray.synthetic.room import furnish

Mask = NDArray[np.bool_]

MIN_VISIBLE_PX = 25
"""A thing of which fewer pixels can be seen counts as absent."""
_NOISE_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing of the clip; ``object_id`` is "1", "2", ... for the annotated ones and "" for look-alikes and clutter."""

    object_id: str
    attributes: Attributes


class World:
    """A clip drawn from ``config`` and ``seed``: the same two give the same frames, in any order of asking.

    Attributes:
        config: the knobs.
        entities: everything that lies about, the annotated things first.
    """

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self.config = config
        motion, things, hands, light = (np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(4))
        dwells = plan_dwells(config, motion)
        self._motion = plan_motion(config, dwells, motion)
        self._things, self._room = furnish(config, things)
        self._sprites = [Sprite(thing.attributes, thing.seed) for thing in self._things]
        self.entities = [Entity(str(k + 1) if t.annotated else "", t.attributes) for k, t in enumerate(self._things)]
        wanted = np.array([4.0 if thing.annotated else 1.0 for thing in self._things])
        self._reaches = plan_reaches(config, dwells, [thing.side for thing in self._things], wanted, hands)
        self._hand_rng, self._noise_rng = hands, light
        num = config.num_frames
        self._gain = 1 + config.light * 0.09 * wander(light, num, 1.3 * config.fps)
        self._balance = 1 + config.light * 0.025 * np.stack([wander(light, num, 2.5 * config.fps) for _ in range(3)], axis=1)

    @property
    def objects(self) -> list[Entity]:
        """The annotated things, in the order of their ids."""
        return [entity for entity in self.entities if entity.object_id]

    def frame(self, index: int) -> Image:
        """Native frame ``index`` as an ``(H, W, 3)`` uint8 RGB image.

        Raises:
            IndexError: if the clip has no such frame.
        """
        camera = self._camera(index)
        image = np.empty((*self.config.size_hw, 3), np.uint8)
        image[:] = (58, 52, 48)
        for quad, texture in self._room.surfaces(float(np.arctan2(camera.rotation[2, 0], camera.rotation[2, 2]))):
            if view := look(camera, quad, texture.shape[:2]):
                cover(image, view, texture)
        for number, level, view in self._visible(camera, index):
            sprite = self._sprites[number]
            blend(image, view, sprite.pictures[level], outline(view, sprite.alphas[level]))
        for view in self._hands(camera, index):
            blend(image, view, self._hand[0], outline(view, self._hand[1]))
        return self._develop(image, index)

    def masks(self, index: int) -> dict[str, Mask]:
        """The exact ``(H, W)`` bool mask of each annotated thing seen in native frame ``index``, by object id; an absent one has none."""
        camera = self._camera(index)
        owner = np.full(self.config.size_hw, -1, np.int16)
        for number, level, view in self._visible(camera, index):
            owner[view.region][outline(view, self._sprites[number].alphas[level]) >= 128] = number
        for view in self._hands(camera, index):
            owner[view.region][outline(view, self._hand[1]) >= 128] = -1
        seen = {entity.object_id: owner == number for number, entity in enumerate(self.entities) if entity.object_id}
        return {object_id: mask for object_id, mask in seen.items() if np.count_nonzero(mask) >= MIN_VISIBLE_PX}

    def _camera(self, index: int) -> Camera:
        if not 0 <= index < self.config.num_frames:
            raise IndexError(f"frame {index} of a clip of {self.config.num_frames} frames")
        return Camera(self._motion.rotation[index], self._motion.position[index], FOCAL * self.config.size_hw[1], self.config.size_hw)

    def _visible(self, camera: Camera, index: int) -> list[tuple[int, int, View]]:
        """(thing, level of detail, view) of what may be in view, farthest first."""
        found = []
        for number in range(len(self._things)):
            quad = self._quad(number, index)
            middle = camera.rotation @ (quad.corner + (quad.right + quad.down) / 2 - camera.position)
            if middle[2] < 0.25:
                continue
            edge = self._sprites[number].alpha.shape[0]
            shown = float(np.linalg.norm(quad.right)) * camera.focal_px / middle[2]
            level = int(np.clip(np.log2(edge / max(1.0, shown)), 0, 2))
            if view := look(camera, quad, self._sprites[number].alphas[level].shape[:2]):
                found.append((float(middle[2]), number, level, view))
        return [(number, level, view) for _, number, level, view in sorted(found, key=lambda f: -f[0])]

    def _quad(self, number: int, index: int) -> Quad:
        """Where the thing is: at its place, or in a hand."""
        thing = self._things[number]
        quad = thing.quad
        for reach in self._reaches:
            if reach.target == number and reach.start <= index < reach.stop:
                (along, up, away), (right, out) = reach.carried(index), side_axes(thing.side)
                quad = Quad(quad.corner + right * along + out * away + np.array([0.0, up, 0.0]), quad.right, quad.down)
        return quad

    def _hands(self, camera: Camera, index: int) -> Iterator[View]:
        for reach in self._reaches:
            if reach.start <= index < reach.stop:
                quad = self._quad(reach.target, index)
                grip = quad.corner + (0.5 + reach.grip[0]) * quad.right + (0.5 + reach.grip[1]) * quad.down
                if view := see_hand(camera, reach, grip, index):
                    yield view

    @cached_property
    def _hand(self) -> tuple[Image, Image]:
        return paint_hand(self._hand_rng)

    def _develop(self, image: Image, index: int) -> Image:
        """What the sensor makes of it: motion blur, exposure and white balance, noise."""
        image = smear(image, self._motion.blur_px[index])
        if self.config.light:
            ramp = np.arange(256)[:, None] * self._gain[index] * self._balance[index]
            image = cv2.LUT(image, np.clip(ramp, 0, 255).astype(np.uint8)[None])
        if self.config.noise:
            plus, minus = self._noise[index % _NOISE_FRAMES]
            image = cv2.subtract(cv2.add(image, plus), minus)
        return image

    @cached_property
    def _noise(self) -> list[tuple[Image, Image]]:
        rng, shape = self._noise_rng, (_NOISE_FRAMES, *self.config.size_hw)
        bank = self.config.noise * (rng.standard_normal((*shape, 1), np.float32) + 0.5 * rng.standard_normal((*shape, 3), np.float32))
        return [(np.clip(n, 0, 255).astype(np.uint8), np.clip(-n, 0, 255).astype(np.uint8)) for n in bank]
