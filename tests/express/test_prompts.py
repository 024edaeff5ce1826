"""Questions and the strict reading of answers."""

import json

import cv2
import numpy as np
import pytest

from egoray.config import ExpressConfig
from egoray.errors import ConfigError
from egoray.express.prices import Price, price_of, prompt_tokens, usd
from egoray.express.prompts import ask_for, ask_which, parse

JPEG = cv2.imencode(".jpg", np.zeros((300, 600, 3), np.uint8))[1].tobytes()
GOOD = {"object": "cup", "short": "the red cup", "long": "the red cup on the shelf"}


def test_what_is_the_same_for_all_objects_comes_first_and_is_long_enough_to_be_cached():
    for kind in ("direct", "metadata"):
        first, second = (ask_for(kind, ExpressConfig(), title, [JPEG]).body["messages"] for title in ("cup", "lid"))
        assert first[0] == second[0]
        assert first[0]["role"] == "system"
        assert len(first[0]["content"].split()) / 0.75 > 1024  # tokens, at the usual three words to four tokens
        assert [part["type"] for part in first[1]["content"]] == ["text", "image_url"]


def test_the_key_changes_with_everything_that_changes_the_answer():
    base = ExpressConfig()
    keys = {
        ask_for("direct", base, "cup", [JPEG]).key,
        ask_for("metadata", base, "cup", [JPEG]).key,
        ask_for("direct", base, "lid", [JPEG]).key,
        ask_for("direct", base, "cup", [JPEG + b"x"]).key,
        ask_for("direct", base.model_copy(update={"llm": "other"}), "cup", [JPEG]).key,
        ask_for("direct", base.model_copy(update={"temperature": 1.0}), "cup", [JPEG]).key,
        ask_for("direct", base, "cup", [JPEG]).again("text", ["wrong"]).key,
    }
    assert len(keys) == 7
    assert ask_for("direct", base, "cup", [JPEG]).key in keys


def test_thinking_models_get_the_parameters_they_know():
    body = ask_for("direct", ExpressConfig(llm="gpt-5"), "cup", []).body
    assert "max_completion_tokens" in body
    assert not {"temperature", "max_tokens"} & set(body)


@pytest.mark.parametrize("text", [json.dumps(GOOD), f"```json\n{json.dumps(GOOD)}\n```", f"```\n{json.dumps(GOOD)}```"])
def test_good_answers_are_read(text):
    assert parse("direct", text) == (GOOD, [])


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", json.dumps(GOOD)[:-3], "Sure! " + json.dumps(GOOD),
        json.dumps(GOOD | {"more": "x"}), json.dumps(GOOD | {"short": 3}),
        json.dumps({"short": "a", "long": "b"}), "[" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_not(text):
    value, problems = parse("direct", text)
    assert value == {}
    assert problems


def test_nested_answers_are_checked_to_the_bottom():
    assert parse("choose", '{"choices": [{"sentence": 1, "candidate": "A"}]}')[1] == []
    assert parse("choose", '{"choices": [{"sentence": true, "candidate": "A"}]}')[1]
    assert parse("choose", '{"choices": [{"sentence": 1}]}')[1]


def test_the_estimate_is_an_upper_bound_of_the_published_rules():
    """85 + 170 a tile for a picture of 300 x 600 (2 tiles); text: the o200k tokenizer counts 1103 for the direct instructions."""
    question = ask_for("direct", ExpressConfig(), "cup", [JPEG, JPEG])
    assert 1103 + 2 * 425 < prompt_tokens(question, None) < 2 * (1103 + 2 * 425)
    strange = ask_which(ExpressConfig(), ["红色的杯子" * 20], [])
    assert prompt_tokens(strange, None) - prompt_tokens(ask_which(ExpressConfig(), [""], []), None) >= 100


def test_prices_are_known_given_or_asked_for():
    assert price_of(ExpressConfig(llm="gpt-4o-2024-11-20")) == Price(2.5, 1.25, 10.0)
    assert price_of(ExpressConfig(llm="llava")) is None
    assert price_of(ExpressConfig(llm="gpt-4o-audio-preview")) is None
    with pytest.raises(ConfigError, match="price of llava is not known"):
        price_of(ExpressConfig(llm="llava", max_usd=1))
    assert price_of(ExpressConfig(llm="llava", max_usd=1, usd_per_m_input=1, usd_per_m_output=2)) == Price(1, 1, 2)
    assert usd(Price(2.5, 1.25, 10.0), 1_000_000, 400_000, 100_000) == pytest.approx(1.5 + 0.5 + 1.0)
