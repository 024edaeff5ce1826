"""The released evaluator's figures on recorded cases: inputs made up, outputs as it gave them, null where it stopped.

Among them: keys without a mask, null, frames given twice, masks that fill the frame, detections in and out of gold frames.
"""

import json
from pathlib import Path

import pytest

from egoray.errors import FormatError
from egoray.evaluate.official import score_as_released

CASES = json.loads((Path(__file__).parent / "data" / "released.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_as_recorded(case):
    given = [case[name] for name in ("frames", "gold", "predicted", "detection")]
    if case["released"] is None:
        with pytest.raises(FormatError, match="the released evaluator"):
            score_as_released(*given, "v, expression 0")
    else:
        figures = score_as_released(*given, "v, expression 0")
        assert {name: figures[name] for name in case["released"]} == pytest.approx(case["released"], abs=1e-9)


def test_the_cases_hold_what_they_claim():
    assert sum(case["released"] is None for case in CASES) >= 10
    empty_keys = [c for c in CASES if c["released"] and any(v is None for v in [*c["gold"].values(), *c["predicted"].values()])]
    assert len(empty_keys) >= 3


def test_counts_that_are_no_text_stop_it():
    mask = {"size": [2, 2], "counts": [1, 2, 1]}
    with pytest.raises(FormatError, match="counts that are not text"):
        score_as_released(["a"], {"a": mask}, {}, None, "v, expression 0")
