"""Sentences that point at exactly one thing of a scene, found by trying which attributes set it apart from all the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

from egoray.synthetic.objects import Attributes
from egoray.synthetic.shapes import SHAPES

_ALL = ("noun", "colour", "material", "text")


def describe(thing: Attributes, others: Sequence[Attributes], rng: np.random.Generator) -> tuple[str, str]:
    """Two different sentences, each true of ``thing`` and of none of ``others``.

    The first gives its colour and noun and as little more as sets it apart; the second says what it is for instead, and all of
    its attributes. A look-alike that differs in size alone is told apart by a comparison.

    Raises:
        ValueError: if something else looks the same and has the same size.
    """
    more = (("noun", "colour", *extra) for size in range(3) for extra in rng.permutation(list(combinations(_ALL[2:], size))).tolist())
    facets = next(facets for facets in more if _unique(thing, others, facets))
    return _sentence(thing, others, facets, by_use=False), _sentence(thing, others, _ALL, by_use=True)


def _matches(thing: Attributes, others: Sequence[Attributes], facets: Collection[str]) -> list[Attributes]:
    return [other for other in others if all(getattr(other, f) == getattr(thing, f) for f in facets)]


def _unique(thing: Attributes, others: Sequence[Attributes], facets: Collection[str]) -> bool:
    """Whether the facets leave nothing else, or only the thing's twin of another size."""
    same = _matches(thing, others, facets)
    twin = [other for other in same if other.looks() == thing.looks()]
    if any(other.scale == thing.scale for other in twin):
        raise ValueError(f"two things are a {thing.title} of the same looks and size")
    return not same or (len(same) == len(twin) == 1)


def _sentence(thing: Attributes, others: Sequence[Attributes], facets: Collection[str], *, by_use: bool) -> str:
    looks = [thing.colour] + [thing.material] * ("material" in facets)
    words = ["the", *(looks[::-1] if thing.material == "plain" else looks)]
    words.append(f"thing used for {thing.use}" if by_use else thing.noun)
    tail = []
    if "text" in facets and SHAPES[thing.noun].label:
        tail.append(f'with "{thing.text}" printed on it' if thing.text else "with nothing printed on it")
    if twins := _matches(thing, others, facets):
        tail.append(f"{'larger' if thing.scale > twins[0].scale else 'smaller'} than the other one like it")
    return " ".join(words) + "".join(f", {part}" if by_use or k else f" {part}" for k, part in enumerate(tail))
