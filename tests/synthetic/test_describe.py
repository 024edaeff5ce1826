"""Sentences that single out one thing: read back by a reader of their own, among everything else in the scene."""

import re
from dataclasses import replace

import numpy as np
import pytest

from egoray.synthetic.expressions import describe
from egoray.synthetic.objects import COLOURS, MATERIALS, Attributes
from egoray.synthetic.shapes import SHAPES
from egoray.synthetic.world import World, WorldConfig

RED_MUG = Attributes(noun="mug", colour="red", material="striped", text="", scale=1.0)


def meant(sentence, scene):
    """The things of the scene that the sentence is true of."""
    words = re.sub(r'"[^"]*"', "", sentence).split()
    found = []
    for thing in scene:
        says = [thing.colour] if any(word in COLOURS for word in words[:4]) else []
        says += [thing.material] if any(word in MATERIALS for word in words[:4]) else []
        kind = f"thing used for {thing.use}" if "used for" in sentence else thing.noun
        if all(word in words[:4] for word in says) and re.search(rf"\b{kind}\b", sentence):
            printed = re.search(r'with "(.*)" printed', sentence)
            if (printed and printed.group(1) != thing.text) or ("nothing printed" in sentence and thing.text):
                continue
            found.append(thing)
    if "than the other one" in sentence:
        found.sort(key=lambda thing: thing.scale, reverse="larger" in sentence)
        return found[:1] if len(found) == 2 else found
    return found


def test_every_object_of_many_scenes_is_singled_out():
    config = WorldConfig(seconds=1, distractors_per_object=2.0, shapes=("mug", "box", "plate", "pair of scissors", "book"))
    comparisons = 0
    for seed in range(60):
        world = World(config, (8, seed))
        scene = [*(item.attributes for item in world.objects), *world.others]
        for item in world.objects:
            others = [thing for thing in scene if thing is not item.attributes]
            sentences = describe(item.attributes, others, np.random.default_rng(seed))
            assert len(set(sentences)) == 2
            for sentence in sentences:
                assert meant(sentence, scene) == [item.attributes], sentence
                comparisons += "than the other one" in sentence
    assert comparisons > 3


def test_the_reader_notices_a_sentence_that_fits_two():
    assert len(meant("the red mug", [RED_MUG, replace(RED_MUG, material="plain")])) == 2


def test_the_first_sentence_says_only_what_is_needed():
    brush = replace(RED_MUG, noun="brush")
    assert describe(RED_MUG, [brush], np.random.default_rng(0))[0] == "the red mug"


def test_what_differs_decides():
    rng = np.random.default_rng(0)
    assert "striped" in describe(RED_MUG, [replace(RED_MUG, material="dotted")], rng)[0]
    assert "nothing printed" in describe(RED_MUG, [replace(RED_MUG, text="TEA")], rng)[0]
    assert "smaller than" in describe(RED_MUG, [replace(RED_MUG, scale=1.5)], rng)[0]


def test_twins_of_one_size_cannot_be_told_apart():
    with pytest.raises(ValueError, match="same looks"):
        describe(RED_MUG, [RED_MUG], np.random.default_rng(0))


def test_every_use_belongs_to_one_noun():
    assert len({shape.use for shape in SHAPES.values()}) == len(SHAPES)
