"""Outlines of things: convex, hollow and pierced shapes as short drawing lists, drawn into small maps of parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

HOLE, BODY, INSIDE, METAL, LIT, DIM = range(6)
"""Parts of a thing: nothing, its own colour, the dark inside, bare metal, a face in more light, a face in less."""

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of thing.

    Attributes:
        noun: what it is called.
        use: what it is for, after "used for".
        size_m: edge of the square that holds it.
        standing: upright on the counter (else it lies flat).
        form: "round" things are shaded as cylinders, "flat" ones as plates with a bevelled edge.
        label: (x centre, y centre, width) where print goes, in the unit square; None for things without print.
        commands: ("poly", part, points), ("disc", part, x, y, rx, ry) or ("line", part, points, thickness), in drawing order,
            x right and y down in the unit square.
    """

    noun: str
    use: str
    size_m: float
    standing: bool
    form: str
    commands: tuple[Command, ...]
    label: tuple[float, float, float] | None = None


def _star(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2, inner, outer)
    return [(0.5 + r * np.cos(a), 0.5 + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]


# One drawing command after another reads as a drawing; a value a line would hide the shape.
# fmt: off
_SHAPES = (
    Shape(noun="mug", use="drinking hot drinks", size_m=0.135, standing=True, form="round", label=(0.39, 0.54, 0.42), commands=(
        ("disc", BODY, 0.69, 0.50, 0.21, 0.24), ("disc", HOLE, 0.69, 0.50, 0.13, 0.16),
        ("poly", BODY, [(0.12, 0.14), (0.66, 0.14), (0.63, 0.88), (0.15, 0.88)]), ("disc", BODY, 0.39, 0.88, 0.24, 0.07),
        ("disc", BODY, 0.39, 0.14, 0.27, 0.09), ("disc", INSIDE, 0.39, 0.14, 0.235, 0.068))),
    Shape(noun="bottle", use="keeping water", size_m=0.23, standing=True, form="round", label=(0.5, 0.66, 0.28), commands=(
        ("poly", BODY, [(0.34, 0.45), (0.43, 0.28), (0.43, 0.1), (0.57, 0.1), (0.57, 0.28), (0.66, 0.45), (0.66, 0.94), (0.34, 0.94)]),
        ("disc", BODY, 0.5, 0.94, 0.16, 0.04), ("poly", METAL, [(0.42, 0.04), (0.58, 0.04), (0.58, 0.15), (0.42, 0.15)]),
        ("disc", METAL, 0.5, 0.04, 0.08, 0.025))),
    Shape(noun="can", use="storing food", size_m=0.15, standing=True, form="round", label=(0.5, 0.55, 0.46), commands=(
        ("poly", BODY, [(0.22, 0.14), (0.78, 0.14), (0.78, 0.88), (0.22, 0.88)]), ("disc", BODY, 0.5, 0.88, 0.28, 0.08),
        ("disc", METAL, 0.5, 0.14, 0.28, 0.09), ("disc", DIM, 0.5, 0.145, 0.22, 0.06))),
    Shape(noun="box", use="packing things", size_m=0.18, standing=True, form="flat", label=(0.42, 0.64, 0.5), commands=(
        ("poly", BODY, [(0.08, 0.32), (0.76, 0.32), (0.76, 0.95), (0.08, 0.95)]),
        ("poly", LIT, [(0.08, 0.32), (0.26, 0.12), (0.93, 0.12), (0.76, 0.32)]),
        ("poly", DIM, [(0.76, 0.32), (0.93, 0.12), (0.93, 0.74), (0.76, 0.95)]))),
    Shape(noun="bowl", use="eating soup", size_m=0.17, standing=True, form="round", commands=(
        ("disc", BODY, 0.5, 0.45, 0.46, 0.46), ("poly", HOLE, [(0, 0), (1, 0), (1, 0.45), (0, 0.45)]),
        ("poly", BODY, [(0.36, 0.85), (0.64, 0.85), (0.66, 0.95), (0.34, 0.95)]),
        ("disc", BODY, 0.5, 0.45, 0.46, 0.14), ("disc", INSIDE, 0.5, 0.45, 0.42, 0.11))),
    Shape(noun="kettle", use="boiling water", size_m=0.22, standing=True, form="round", label=(0.46, 0.68, 0.36), commands=(
        ("disc", BODY, 0.46, 0.3, 0.27, 0.25), ("disc", HOLE, 0.46, 0.3, 0.2, 0.18),
        ("line", BODY, [(0.7, 0.78), (0.94, 0.42)], 0.1),
        ("poly", BODY, [(0.26, 0.4), (0.66, 0.4), (0.76, 0.92), (0.16, 0.92)]), ("disc", BODY, 0.46, 0.92, 0.3, 0.06),
        ("disc", LIT, 0.46, 0.41, 0.2, 0.05), ("disc", METAL, 0.46, 0.36, 0.04, 0.04))),
    Shape(noun="padlock", use="locking a door", size_m=0.12, standing=True, form="flat", commands=(
        ("disc", METAL, 0.5, 0.34, 0.29, 0.31), ("disc", HOLE, 0.5, 0.36, 0.19, 0.22),
        ("poly", BODY, [(0.14, 0.42), (0.86, 0.42), (0.86, 0.96), (0.14, 0.96)]),
        ("disc", INSIDE, 0.5, 0.64, 0.06, 0.06), ("line", INSIDE, [(0.5, 0.64), (0.5, 0.78)], 0.05))),
    Shape(noun="plate", use="serving food", size_m=0.22, standing=False, form="flat", commands=(
        ("disc", BODY, 0.5, 0.5, 0.48, 0.48), ("disc", DIM, 0.5, 0.5, 0.34, 0.34), ("disc", BODY, 0.5, 0.51, 0.32, 0.32))),
    Shape(noun="tape roll", use="sealing boxes", size_m=0.14, standing=False, form="flat", commands=(
        ("disc", BODY, 0.5, 0.5, 0.48, 0.48), ("disc", LIT, 0.5, 0.5, 0.31, 0.31), ("disc", HOLE, 0.5, 0.5, 0.26, 0.26))),
    Shape(noun="pair of scissors", use="cutting paper", size_m=0.22, standing=False, form="flat", commands=(
        ("poly", METAL, [(0.36, 0.62), (0.46, 0.62), (0.68, 0.04)]), ("poly", METAL, [(0.64, 0.62), (0.54, 0.62), (0.36, 0.05)]),
        ("disc", BODY, 0.3, 0.78, 0.16, 0.19), ("disc", BODY, 0.7, 0.78, 0.16, 0.19),
        ("line", BODY, [(0.38, 0.64), (0.54, 0.48)], 0.09), ("line", BODY, [(0.62, 0.64), (0.46, 0.48)], 0.09),
        ("disc", HOLE, 0.3, 0.79, 0.09, 0.12), ("disc", HOLE, 0.7, 0.79, 0.09, 0.12), ("disc", METAL, 0.5, 0.52, 0.03, 0.03))),
    Shape(noun="star ornament", use="decorating a tree", size_m=0.16, standing=False, form="flat", commands=(
        ("poly", BODY, _star(5, 0.5, 0.22)), ("disc", HOLE, 0.5, 0.16, 0.03, 0.03))),
    Shape(noun="bracket", use="holding up a shelf", size_m=0.18, standing=False, form="flat", commands=(
        ("poly", BODY, [(0.05, 0.04), (0.3, 0.04), (0.3, 0.7), (0.96, 0.7), (0.96, 0.95), (0.05, 0.95)]),
        ("disc", HOLE, 0.175, 0.2, 0.05, 0.05), ("disc", HOLE, 0.8, 0.825, 0.05, 0.05))),
    Shape(noun="wrench", use="turning bolts", size_m=0.22, standing=False, form="flat", commands=(
        ("line", BODY, [(0.5, 0.22), (0.5, 0.8)], 0.13), ("disc", BODY, 0.5, 0.18, 0.17, 0.17), ("disc", BODY, 0.5, 0.83, 0.15, 0.15),
        ("poly", HOLE, [(0.42, 0), (0.58, 0), (0.58, 0.2), (0.42, 0.2)]), ("disc", HOLE, 0.5, 0.84, 0.08, 0.08))),
    Shape(noun="spoon", use="stirring a pot", size_m=0.24, standing=False, form="flat", commands=(
        ("line", BODY, [(0.5, 0.3), (0.5, 0.94)], 0.09), ("disc", BODY, 0.5, 0.2, 0.16, 0.2), ("disc", DIM, 0.5, 0.2, 0.11, 0.15))),
    Shape(noun="pan", use="frying eggs", size_m=0.28, standing=False, form="flat", commands=(
        ("line", BODY, [(0.5, 0.5), (0.5, 0.93)], 0.11), ("disc", BODY, 0.5, 0.32, 0.31, 0.31), ("disc", INSIDE, 0.5, 0.32, 0.26, 0.26),
        ("disc", HOLE, 0.5, 0.93, 0.025, 0.025))),
    Shape(noun="book", use="reading", size_m=0.21, standing=False, form="flat", label=(0.53, 0.34, 0.56), commands=(
        ("poly", LIT, [(0.14, 0.03), (0.9, 0.03), (0.9, 0.99), (0.14, 0.99)]),
        ("poly", BODY, [(0.12, 0.02), (0.88, 0.02), (0.88, 0.97), (0.12, 0.97)]),
        ("poly", DIM, [(0.12, 0.02), (0.19, 0.02), (0.19, 0.97), (0.12, 0.97)]))),
    Shape(noun="key", use="opening a lock", size_m=0.14, standing=False, form="flat", commands=(
        ("disc", BODY, 0.5, 0.23, 0.22, 0.22), ("disc", HOLE, 0.5, 0.2, 0.09, 0.09), ("line", BODY, [(0.5, 0.4), (0.5, 0.92)], 0.11),
        ("poly", BODY, [(0.5, 0.72), (0.68, 0.72), (0.68, 0.8), (0.5, 0.8)]),
        ("poly", BODY, [(0.5, 0.86), (0.72, 0.86), (0.72, 0.96), (0.5, 0.96)]))),
    Shape(noun="brush", use="painting a wall", size_m=0.2, standing=False, form="flat", commands=(
        ("line", BODY, [(0.5, 0.5), (0.5, 0.92)], 0.13), ("poly", METAL, [(0.3, 0.34), (0.7, 0.34), (0.64, 0.52), (0.36, 0.52)]),
        ("poly", DIM, [(0.28, 0.04), (0.72, 0.04), (0.7, 0.36), (0.3, 0.36)]), ("disc", HOLE, 0.5, 0.9, 0.025, 0.025))),
)
# fmt: on

SHAPES: dict[str, Shape] = {shape.noun: shape for shape in _SHAPES}


def draw_parts(shape: Shape, edge_px: int) -> NDArray[np.uint8]:
    """The shape's parts as an (edge_px, edge_px) uint8 map of `HOLE` (0) to `DIM`."""
    parts = np.zeros((edge_px, edge_px), np.uint8)

    def pixels(points: list[tuple[float, float]]) -> NDArray[np.int32]:
        return np.rint(np.array(points) * edge_px - 0.5).astype(np.int32)

    for kind, part, *rest in shape.commands:
        if kind == "poly":
            cv2.fillPoly(parts, [pixels(rest[0])], int(part))
        elif kind == "disc":
            x, y, rx, ry = (round(v * edge_px) for v in rest)
            cv2.ellipse(parts, (x, y), (rx, ry), 0, 0, 360, int(part), cv2.FILLED)
        else:
            cv2.polylines(parts, [pixels(rest[0])], False, int(part), round(rest[1] * edge_px))
    return parts
