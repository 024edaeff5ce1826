"""A first-person scene: a room of counters, things with names, a head that turns, a hand that reaches, and the exact truth.

Everything is a flat picture in space seen by a pinhole camera. A frame and its truth come from the same outlines: an object's
mask is every pixel where it covers at least half and nothing nearer does, before blur, light and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from egoray.schema import Box
from egoray.synthetic import quads
from egoray.synthetic.camera import FOCAL, Camera, Floats, plan_dwells, plan_motion, side_axes
from egoray.synthetic.hands import GRIP, HAND_SIZE_M, Layer, paint_hand, plan_handling
from egoray.synthetic.knobs import WorldConfig
from egoray.synthetic.lens import Lens
from egoray.synthetic.objects import Attributes, Sprite
from egoray.synthetic.quads import Image, Mask, Quad
from egoray.synthetic.room import furnish
from egoray.synthetic.shapes import SHAPES

__all__ = ["MIN_VISIBLE_PX", "SceneObject", "World", "WorldConfig", "tight_box"]

MIN_VISIBLE_PX = 25
"""Fewer visible pixels than this count as absent: no mask and no box."""

_NEAREST_M = 0.2  # things nearer than this to the lens are not drawn
_CAST_M = np.array([0.006, -0.003, -0.006])  # how far a flat thing's shadow falls
_FLOOR = 42  # grey level of what the counters' fronts leave uncovered


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An annotated object of a clip: ``object_id`` "1", "2", ... and what can be said of it."""

    object_id: str
    attributes: Attributes


class World:
    """One clip, ready to be looked at in any order.

    The same config and seed give the same frames and masks. Textures are painted when first seen, so a world asked only for
    masks stays cheap.

    Args:
        config: what the clip is like.
        seed: a whole number, or several such as (seed, clip index).

    Attributes:
        objects: the annotated objects.
        others: what else lies in the scene, look-alikes and clutter.
        things: all of it, the annotated objects first.
    """

    def __init__(self, config: WorldConfig, seed: int | Sequence[int]) -> None:
        self.config = config
        streams = np.random.SeedSequence(seed).spawn(5)
        things_rng, motion_rng, hands_rng, lens_rng, self._skin_rng = (np.random.Generator(np.random.PCG64(s)) for s in streams)
        self._things, self._room = furnish(config, things_rng)
        self._sprites = [Sprite(thing.attributes, thing.seed) for thing in self._things]
        dwells = plan_dwells(config, motion_rng)
        self._motion = plan_motion(config, dwells, motion_rng)
        self._hand = plan_handling(config, dwells, [thing.side for thing in self._things], hands_rng)
        self._lens = Lens(config, lens_rng)
        self.objects = tuple(SceneObject(str(k + 1), thing.attributes) for k, thing in enumerate(self._things) if thing.annotated)
        self.others = tuple(thing.attributes for thing in self._things if not thing.annotated)
        self.things = tuple(thing.attributes for thing in self._things)

    @property
    def num_frames(self) -> int:
        """Native frames of the clip."""
        return self.config.num_frames

    def frame(self, index: int) -> Image:
        """Native frame ``index`` as ``(H, W, 3)`` uint8 RGB.

        Raises:
            IndexError: if the clip has no such frame; `masks` does the same.
        """
        canvas = np.empty((*self.config.size_hw, 3), np.uint8)
        self._draw(index, canvas)
        return self._lens.expose(index, canvas)

    def masks(self, index: int) -> dict[str, Mask]:
        """The visible pixels of each object present in native frame ``index``: object id to ``(H, W)`` bool."""
        owner = self.owners(index)
        masks = {scene_object.object_id: owner == k + 1 for k, scene_object in enumerate(self.objects)}
        return {object_id: mask for object_id, mask in masks.items() if np.count_nonzero(mask) >= MIN_VISIBLE_PX}

    def owners(self, index: int) -> Image:
        """Who owns each pixel of native frame ``index``, ``(H, W)`` uint8: 0 for nobody, k + 1 for ``things[k]``."""
        return self._draw(index, None)

    def held(self, index: int) -> int | None:
        """The position in ``things`` of what the hand holds before the camera in native frame ``index``."""
        hand = self._hand
        return int(hand.thing[index]) if hand.lift[index] > 0.5 else None

    def _draw(self, index: int, canvas: Image | None) -> Image:
        """Who owns each pixel, (H, W) uint8: 0 for nobody, k + 1 for thing k. Paints the picture where there is a canvas."""
        config, hand = self.config, self._hand
        if not 0 <= index < config.num_frames:
            raise IndexError(f"frame {index} of a clip of {config.num_frames}")
        camera = Camera(self._motion.rotation[index], self._motion.position[index], FOCAL * config.size_hw[1], config.size_hw)
        owner = np.zeros(config.size_hw, np.uint8)
        rects = [thing.quad for thing in self._things]
        taken, lift = int(hand.thing[index]), float(hand.lift[index])
        if lift > 0:
            rects[taken] = _lifted(rects[taken], camera, hand.hold[index], lift)
        depths = (np.array([rect.centre for rect in rects]) - camera.position) @ camera.rotation[2]
        order = [int(k) for k in np.argsort(-depths, kind="stable") if depths[k] > _NEAREST_M]
        held = [k for k in order if k == taken and lift > 0.5]
        if canvas is not None:
            self._draw_room(camera, canvas)
            for k in order:
                if k != taken or lift == 0:
                    self._draw_shadow(k, camera, canvas)
        for k in order:
            if k not in held:
                self._draw_thing(k, rects[k], camera, owner, canvas)
        if canvas is not None:
            quads.smear(canvas, self._motion.blur_px[index])
        if taken >= 0:  # hand and held thing move with the head, so that its turns do not blur them
            arm = _arm(rects[taken].centre, camera, float(hand.reach[index]), bool(hand.left[index]))
            behind, front = self._layers
            _draw_layer(behind, arm, camera, owner, canvas)
            for k in held:
                self._draw_thing(k, rects[k], camera, owner, canvas)
            _draw_layer(front, arm, camera, owner, canvas)
        return owner

    def _draw_room(self, camera: Camera, canvas: Image) -> None:
        canvas.fill(_FLOOR)
        ahead = camera.rotation[2]
        for quad, cut, texture in self._room.surfaces(float(np.arctan2(ahead[0], ahead[2]))):
            if view := quads.look(camera, quad, texture.shape[:2], cut):
                quads.cover(canvas, view, texture)

    def _draw_shadow(self, k: int, camera: Camera, canvas: Image) -> None:
        """The soft dark patch where a thing meets its counter."""
        thing = self._things[k]
        rect = thing.quad
        if SHAPES[thing.attributes.noun].standing:
            size = float(np.linalg.norm(rect.right))
            right, out = side_axes(thing.side)
            foot = rect.centre + np.array([0.05, -0.45, 0.0]) * size
            ground, alpha = Quad.around(foot, right * size * 1.25, -out * size * 0.75), _SPOT
        else:
            ground, alpha = Quad(rect.corner + _CAST_M, rect.right, rect.down), self._sprites[k].shadow
        if view := quads.look(camera, ground, alpha.shape):
            quads.darken(canvas, view, alpha)

    def _draw_thing(self, k: int, rect: Quad, camera: Camera, owner: Image, canvas: Image | None) -> None:
        sprite = self._sprites[k]
        depth = camera.rotation[2] @ (rect.centre - camera.position)
        shown_px = camera.focal_px * np.linalg.norm(rect.right) / depth
        level = int(np.clip(np.log2(len(sprite.alpha) / max(shown_px, 1.0)), 0, len(sprite.alphas) - 1))
        if view := quads.look(camera, rect, sprite.alphas[level].shape):
            outline = quads.outline(view, sprite.alphas[level])
            owner[view.region][outline >= 128] = k + 1
            if canvas is not None:
                quads.blend(canvas, view, sprite.pictures[level], outline)

    @cached_property
    def _layers(self) -> tuple[Layer, Layer]:
        return paint_hand(self._skin_rng)


def tight_box(mask: Mask) -> Box:
    """The (x1, y1, x2, y2) around the pixels of a mask that is not empty, x2 and y2 one past the last."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))


def _lifted(rect: Quad, camera: Camera, hold: Floats, lift: float) -> Quad:
    """The thing's rectangle on its way from its place (0) to the hand before the camera, facing it (1)."""
    size = float(np.linalg.norm(rect.right))
    goal = camera.position + camera.rotation.T @ hold
    edges = []
    for edge, axis in ((rect.right, camera.rotation[0]), (rect.down, camera.rotation[1])):
        mixed = (1 - lift) * edge / size + lift * axis
        edges.append(mixed * size / max(float(np.linalg.norm(mixed)), 0.2))
    return Quad.around((1 - lift) * rect.centre + lift * goal, *edges)


def _arm(thing_at: Floats, camera: Camera, reach: float, left: bool) -> Quad:
    """The hand's rectangle with its grip at the thing, or below the frame while ``reach`` is 0."""
    x, y, z = camera.rotation @ (thing_at - camera.position)
    below = 0.5 * camera.size_hw[0] / camera.focal_px * z + 0.12
    grip = np.array([x, reach * y + (1 - reach) * max(below, y), z])
    lean = -0.4 if left else 0.4
    right = camera.rotation.T @ np.array([np.cos(lean), -np.sin(lean), 0.0]) * HAND_SIZE_M[0]
    down = camera.rotation.T @ np.array([np.sin(lean), np.cos(lean), 0.0]) * HAND_SIZE_M[1]
    if left:
        right = -right
    return Quad(camera.position + camera.rotation.T @ grip - right * GRIP[0] - down * GRIP[1], right, down)


def _draw_layer(layer: Layer, quad: Quad, camera: Camera, owner: Image, canvas: Image | None) -> None:
    if view := quads.look(camera, quad, layer.alpha.shape):
        outline = quads.outline(view, layer.alpha)
        owner[view.region][outline >= 128] = 0
        if canvas is not None:
            quads.blend(canvas, view, layer.rgb, outline)


def _spot() -> Image:
    """A round shadow, (48, 48) uint8, soft at the edge."""
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    return np.rint(110 * np.clip(1 - np.hypot(x, y), 0, 1) ** 0.8).astype(np.uint8)


_SPOT = _spot()
