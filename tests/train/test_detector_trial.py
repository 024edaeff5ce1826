"""The detector's measure: by a detector that knows, one that guesses, and figures by hand."""

import numpy as np
import pytest

from egoray.models.base import Detection
from egoray.synthetic.objects import Attributes
from egoray.train.detector_trial import Answered, Question, average_precision, false_alarms, found_at, questions, threshold_for

THINGS = [
    Attributes(noun="mug", colour="red", material="plain", text="TEA", scale=1.0),
    Attributes(noun="mug", colour="blue", material="plain", text="TEA", scale=1.0),
    Attributes(noun="pan", colour="green", material="wooden", text="", scale=1.0),
]
BOXES = np.array([[10, 10, 30, 30], [0, 0, 0, 0], [50, 50, 90, 80]], np.float32)
RIGHT, WRONG = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def answered(kind, *found):
    return Answered(
        Question(text="", kind=kind, box=RIGHT if kind == "visible" else None), [Detection(box=b, score=s) for b, s in found], 0.1
    )


def test_questions_are_of_every_kind_and_true():
    asked = [q for seed in range(60) for q in questions(THINGS, BOXES, np.random.default_rng(seed))]
    assert {q.kind for q in asked} == {"visible", "elsewhere", "look-alike", "never"}
    assert all((q.box is not None) == (q.kind == "visible") for q in asked)
    assert {q.box for q in asked if q.box} == {(10, 10, 30, 30), (50, 50, 90, 80)}
    elsewhere = {q.text for q in asked if q.kind == "elsewhere"}
    assert elsewhere
    assert all("blue" in text for text in elsewhere)


def test_average_precision_by_hand():
    # Ranked: right .9, wrong .8, right .7; a third visible question is never found. Precision at recall 1/3 is 1, at 2/3 it is 2/3.
    rows = [answered("visible", (RIGHT, 0.9)), answered("visible", (WRONG, 0.8), (RIGHT, 0.7)), answered("visible")]
    assert average_precision(rows) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision([*rows, answered("never", (RIGHT, 0.99))]) == pytest.approx((1 + 2 / 3) / 3)


def test_a_second_box_on_the_same_thing_is_wrong():
    rows = [answered("visible", (RIGHT, 0.9), (RIGHT, 0.8)), answered("visible", (RIGHT, 0.7))]
    assert average_precision(rows) == pytest.approx((1 + 2 / 3) / 2)


def test_nothing_asked_is_nothing_found():
    assert average_precision([]) == false_alarms([], 0.5) == found_at([], 0.5) == 0.0


def test_the_threshold_lets_through_what_it_may():
    rows = [answered("never", (WRONG, k / 10)) for k in range(10)] + [answered("visible", (RIGHT, 0.85)), answered("visible", (RIGHT, 0.2))]
    threshold = threshold_for(rows, 0.2)
    assert false_alarms(rows, threshold) == pytest.approx(0.2)
    assert 0.7 < threshold < 0.8
    assert found_at(rows, threshold) == 0.5
    assert false_alarms(rows, threshold_for(rows, 0.0)) == 0.0
