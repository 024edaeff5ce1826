"""Sentences that fit one thing of a room and no other: what distinguishes it, in as few words as do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from egoray.synthetic.objects import Attributes
from egoray.synthetic.shapes import SHAPES

_BIGGER = 1.25
"""Ratio of sizes from which one thing is plainly the larger."""


def two_expressions(things: Sequence[Attributes], number: int) -> tuple[str, str]:
    """A short and a longer sentence that each single out ``things[number]`` among all of ``things``.

    Raises:
        ValueError: if nothing tells it apart.
    """
    fitting = list(_sentences(things, number))
    if not fitting:
        raise ValueError(f"nothing tells {things[number].title} apart from the other things")
    short = min(fitting, key=lambda s: (len(s.split()), s))
    long = max((s for s in fitting if s != short), key=lambda s: (len(s.split()), s), default=None)
    return short, long or f"{short}, used for {SHAPES[things[number].noun].use}"


def _sentences(things: Sequence[Attributes], number: int) -> Iterator[str]:
    thing = things[number]
    others = [other for k, other in enumerate(things) if k != number]
    tests = {
        "colour": lambda other: other.colour == thing.colour,
        "material": lambda other: other.material == thing.material,
        "noun": lambda other: other.noun == thing.noun,
        "text": lambda other: other.text == thing.text,
    }
    for count in range(1, len(tests) + 1):
        for keys in combinations(tests, count):
            alike = [other for other in others if all(tests[key](other) for key in keys)]
            if "noun" not in keys:
                alike += [other for other in others if other not in alike and other.use == thing.use and all(tests[k](other) for k in keys)]
            if not alike:
                yield _say(thing, keys, "")
            elif all(thing.scale > _BIGGER * other.scale for other in alike):
                yield _say(thing, keys, "larger")
            elif all(thing.scale * _BIGGER < other.scale for other in alike):
                yield _say(thing, keys, "smaller")


def _say(thing: Attributes, keys: Sequence[str], size: str) -> str:
    material = thing.material if "material" in keys else ""
    words = ["the", size, material, thing.colour if "colour" in keys else "", thing.noun if "noun" in keys else "thing"]
    sentence = " ".join(word for word in words if word)
    if "text" in keys:
        sentence += f" with {thing.text} on it" if thing.text else " without print"
    return sentence if "noun" in keys else f"{sentence} for {SHAPES[thing.noun].use}"
