"""What may pass as a referring expression."""

import pytest

from egoray.express import checks, templates


def problems(text, names=("cup",), **more):
    return " | ".join(checks.problems(text, max_words=more.pop("max_words", 10), names=names, **more))


@pytest.mark.parametrize("text", ["the red cup", "the cups on the shelf", "the cup beside the toolbox", "the clipboard by the cup"])
def test_good_sentences_pass(text):
    assert problems(text) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("the cup " + "very " * 10, "12 words"),
        ("the cup in the bounding box", "picture"),
        ("the cup inside the red rectangle", "picture"),
        ("the cup in the image", "picture"),
        ("the cup seen in the last frames", "picture"),
        ("the cup in the video", "picture"),
        ("the blue one", "does not name"),
        ("I'm sorry, I can't help with that cup", "refusal"),
        ("I cannot identify the cup", "refusal"),
    ],
)
def test_bad_sentences_are_named_for_what_is_bad(text, why):
    assert why in problems(text)


def test_a_things_own_name_may_be_a_forbidden_word():
    assert problems("the picture frame on the wall", names=("picture frame",)) == ""
    assert "frame" in problems("the cup in the frame", names=("cup",))


def test_siblings_must_differ():
    assert "says the same" in problems("a red cup", siblings=["the red cup"])
    assert problems("the red cup by the sink", siblings=["the red cup"]) == ""


def test_templates_compose_only_what_is_there():
    facets = {"caption": "The dented pot.", "attributes": "", "relations": "It is beside the sink", "text": "None", "knowledge": "n/a"}
    assert dict(templates.compose(facets | {"function": "used to boil eggs"})) == {
        "function": "the dented pot used to boil eggs",
        "relation": "the dented pot beside the sink",
        "function and relation": "the dented pot beside the sink, used to boil eggs",
    }
    assert dict(templates.compose(facets | {"function": "boiling eggs"}))["function"] == "the dented pot used for boiling eggs"
    assert list(templates.compose({"caption": "", "function": "boil"})) == []
