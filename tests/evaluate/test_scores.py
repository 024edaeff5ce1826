"""Sums that do not depend on who added what first."""

from __future__ import annotations

import pickle
import random

import pytest

from egoray.evaluate.scores import ScoreSums


def parts(seed: int = 0, num: int = 60) -> list[ScoreSums]:
    """Values of very different sizes, whose float sum depends on the order; some metrics are missing."""
    rng = random.Random(seed)
    return [
        ScoreSums.of({m: rng.random() * 10 ** rng.randint(-12, 3) for m in ("J", "T_f1", "IoU_gold") if rng.random() < 0.7})
        for _ in range(num)
    ]


def test_any_order_and_any_grouping_gives_the_same_bits() -> None:
    in_order = sum(parts(), ScoreSums())
    for seed in range(10):
        shuffled = parts()
        random.Random(seed).shuffle(shuffled)
        while len(shuffled) > 1:  # a random tree of merges
            i = random.Random(seed + len(shuffled)).randrange(len(shuffled) - 1)
            shuffled[i : i + 2] = [shuffled[i] + shuffled[i + 1]]
        assert shuffled[0] == in_order
        assert shuffled[0].compute() == in_order.compute()


def test_the_float_sum_would_depend_on_the_order() -> None:
    values = [float(p.sums["J"]) for p in parts() if "J" in p.sums]
    assert sum(values) != sum(reversed(values))


def test_mean_is_over_values_not_over_parts() -> None:
    one, three = ScoreSums.of({"J": 1.0}), ScoreSums.of({"J": 0.0}) + ScoreSums.of({"J": 0.0}) + ScoreSums.of({"F": 0.5})
    assert (one + three).compute() == {"F": 0.5, "J": pytest.approx(1 / 3)}


def test_nothing_is_neutral_and_has_no_mean() -> None:
    some = ScoreSums.of({"J": 0.25})
    assert ScoreSums() + some == some + ScoreSums() == some
    assert ScoreSums().compute() == {}


def test_crosses_a_process_border() -> None:
    total = sum(parts(), ScoreSums())
    assert pickle.loads(pickle.dumps(total)) == total


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ScoreSums.of({"J": value})
