"""What the detector is asked in training: sentences about attributes, true of some things, almost true of look-alikes, true of none.

A sentence is a set of facets; a thing either has them or not, so one sentence can be held against every thing of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoray.synthetic.objects import COLOURS, MATERIALS, WORDS, Attributes
from egoray.synthetic.shapes import SHAPES

NOUNS, COLOUR_NAMES, PRINTS = tuple(SHAPES), tuple(COLOURS), ("", *WORDS)
FACETS = ("noun", "colour", "material", "text", "held", "size", "twin")
ANY, NEVER = -1, -2
"""A facet that is not asked for, and one that nothing has."""

_VALUES = (NOUNS, COLOUR_NAMES, MATERIALS, PRINTS, ("", "held"), ("", "large", "small"), ("", "larger", "smaller"))
NUM_VALUES = [len(values) for values in _VALUES]
"""How many values each facet has."""

_SYNONYMS = {
    "mug": ("mug", "cup", "coffee mug"),
    "can": ("can", "tin", "tin can"),
    "box": ("box", "carton", "package"),
    "kettle": ("kettle", "teapot"),
    "padlock": ("padlock", "lock"),
    "plate": ("plate", "dish"),
    "tape roll": ("tape roll", "roll of tape", "tape"),
    "pair of scissors": ("pair of scissors", "scissors"),
    "star ornament": ("star ornament", "star"),
    "wrench": ("wrench", "spanner"),
    "pan": ("pan", "frying pan"),
    "book": ("book", "notebook"),
    "brush": ("brush", "paintbrush"),
    "turquoise": ("turquoise", "teal", "cyan"),
    "purple": ("purple", "violet"),
    "wooden": ("wooden", "wood"),
    "metallic": ("metallic", "metal", "shiny"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "checkered"),
    "striped": ("striped", "stripy"),
    "large": ("large", "big"),
    "small": ("small", "little"),
}
ABSENT_NOUNS = (
    *("umbrella", "chair", "lamp", "clock", "phone", "keyboard", "mouse", "bag", "candle", "vase", "apple", "bread"),
    *("knife", "fork", "hammer", "screwdriver", "pencil", "pen", "glove", "towel", "sponge", "basket", "pillow", "mirror", "ladder"),
    *("bicycle", "dog", "cat", "person", "door", "window", "table", "cupboard", "shelf", "sink", "tap", "paper", "cloth", "board"),
)
"""Nouns of nothing in the worlds, for training; the trial asks for others."""


@dataclass(frozen=True, slots=True)
class Query:
    """A sentence and the facets it asks for: (7,) codes in the order of `FACETS`, or `ANY`, or `NEVER`."""

    text: str
    codes: tuple[int, ...]


def thing_codes(things: Sequence[Attributes], held: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(T, 7) codes of a world's things in one frame."""
    rows = []
    for thing, in_hand in zip(things, held, strict=True):
        twin = next((o for o in things if o is not thing and o.looks() == thing.looks()), None)
        rows.append(
            (
                NOUNS.index(thing.noun),
                COLOUR_NAMES.index(thing.colour),
                MATERIALS.index(thing.material),
                PRINTS.index(thing.text),
                int(in_hand),
                1 if thing.scale > 1.3 else 2 if thing.scale < 0.8 else 0,
                0 if twin is None else 1 if thing.scale > twin.scale else 2,
            )
        )
    return np.array(rows, np.int64).reshape(-1, len(FACETS))


def answers(things: NDArray[np.int64], queries: Sequence[Query]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, Q) whether each thing of (N, 7) codes is meant, and whether that can be said at all.

    A thing of ordinary size is neither large nor small for sure, and one without a twin neither larger nor smaller.
    """
    asked = np.array([query.codes for query in queries], np.int64).reshape(-1, len(FACETS))
    fits = (asked[None] == ANY) | (asked[None] == things[:, None])
    vague = (asked[None, :, 5:] > 0) & (things[:, None, 5:] == 0)
    truth = fits.all(-1)
    return truth, ~(fits[..., :5].all(-1) & vague.any(-1))


def draw_queries(things: NDArray[np.int64], num: int, rng: np.random.Generator) -> list[Query]:
    """Sentences about the (N, 7) things of a batch: 45 % true of one, 35 % one facet beside it, 10 % at random, 10 % never true."""
    queries = []
    for kind in rng.choice(4, num, p=(0.45, 0.35, 0.10, 0.10)):
        if kind == 2 or not len(things):
            codes = [int(rng.integers(len(values))) for values in _VALUES[:4]] + [0, 0, 0]
        else:
            codes = [int(code) for code in things[rng.integers(len(things))]]
        kept = _choose(codes, rng)
        if kind == 1:
            asked = [k for k in range(5) if kept[k] != ANY]
            k = int(rng.choice(asked)) if asked else 0
            kept[k] = int(rng.choice([v for v in range(len(_VALUES[k])) if v != codes[k]]))
        if kind == 3:
            kept[0] = NEVER
        queries.append(say(kept, rng))
    return queries


def _choose(codes: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Some of the facets, mostly noun and colour; held and sizes now and then where they apply."""
    odds = (0.85, 0.75, 0.45, 0.45 if codes[3] else 0.12, 0.35 if codes[4] else 0.02, 0.25 * (codes[5] > 0), 0.4 * (codes[6] > 0))
    if rng.random() < 0.2:  # one word alone, so that each is learned for itself
        only = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15)))
        return [code if k == only else ANY for k, code in enumerate(codes)]
    kept = [code if rng.random() < chance else ANY for code, chance in zip(codes, odds, strict=True)]
    return kept if any(code != ANY for code in kept[:4]) else [*codes[:2], *kept[2:]]


def say(codes: Sequence[int], rng: np.random.Generator) -> Query:
    """One of the many ways to say it."""
    noun, colour, material, text, held, size, twin = map(int, codes)
    looks = [_name(COLOUR_NAMES[colour], rng)] * (colour != ANY) + [_name(MATERIALS[material], rng)] * (material != ANY)
    if rng.random() < 0.5:
        looks.reverse()
    if size > 0:
        looks.insert(0, _name(_VALUES[5][size], rng))
    if rng.random() < 0.05:
        looks.insert(int(rng.integers(len(looks) + 1)), _gibberish(rng))
    tail = []
    if text == 0:
        tail.append(str(rng.choice(["with nothing printed on it", "with nothing printed on it", "without print"])))
    elif text != ANY:
        form = str(rng.choice(['with "{}" printed on it', 'with "{}" printed on it', "that says {}", "with the word {}"]))
        tail.append(form.format(PRINTS[text]))
    if held == 1:
        tail.append(str(rng.choice(["in the hand", "in hand", "held by the hand", "being held"])))
    elif held == 0:
        tail.append("not in the hand")
    if twin > 0:
        tail.append(f"{_VALUES[6][twin]} than the other one like it")
    words = [str(rng.choice(["the", "the", "a", ""])), *looks, _head(noun, rng)]
    comma = "," if len(tail) > 1 or rng.random() < 0.3 else ""
    joined = " ".join(word for word in words if word)
    return Query(joined + "".join(f"{comma} {part}" for part in tail), tuple(codes))


def _head(noun: int, rng: np.random.Generator) -> str:
    if noun == NEVER:
        return str(rng.choice(ABSENT_NOUNS)) if rng.random() < 0.6 else _gibberish(rng)
    if noun == ANY:
        return str(rng.choice(["thing", "object", "one", "item"]))
    name = NOUNS[noun]
    return f"thing used for {SHAPES[name].use}" if rng.random() < 0.35 else _name(name, rng)


def _name(word: str, rng: np.random.Generator) -> str:
    others = _SYNONYMS.get(word)
    return str(rng.choice(others)) if others and rng.random() < 0.3 else word


def _gibberish(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("aeioubcdfghklmnprstvwxyz"), int(rng.integers(3, 9))))
