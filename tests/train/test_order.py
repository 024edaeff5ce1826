"""Which clip comes when: each exactly as often as its source says, and shares as asked."""

from collections import Counter

import pytest

from egoray.train.order import Order


def test_an_epoch_has_each_clip_as_often_as_its_source_repeats():
    order = Order([3, 2], [2, 5], None, seed=1)
    assert order.epoch == 16
    for epoch in range(3):
        counts = Counter(order[epoch * 16 + k] for k in range(16))
        assert counts == {0: 2, 1: 2, 2: 2, 3: 5, 4: 5}
    assert [order[k] for k in range(16)] != [order[16 + k] for k in range(16)]


def test_the_same_seed_gives_the_same_order_from_any_position():
    one, other = (Order([30], [2], None, seed=4) for _ in range(2))
    assert [one[k] for k in range(100)] == [other[k] for k in reversed(range(100))][::-1]
    assert [one[k] for k in range(60)] != [Order([30], [2], None, seed=5)[k] for k in range(60)]


def test_rates_share_the_samples_and_go_through_each_source_in_passes():
    order = Order([10, 4], [1, 1], [0.8, 0.2], seed=0)
    drawn = [order[k] for k in range(9000)]
    first = [clip for clip in drawn if clip < 10]
    assert len(first) / len(drawn) == pytest.approx(0.8, abs=0.02)
    for start in range(0, len(first) - 10, 10):
        assert sorted(first[start : start + 10]) == list(range(10))
    second = [clip for clip in drawn if clip >= 10]
    assert sorted(second[:4]) == [10, 11, 12, 13]


def test_a_source_without_clips_is_never_drawn():
    order = Order([0, 5], [1, 1], [0.9, 0.1], seed=0)
    assert {order[k] for k in range(50)} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="no clip"):
        Order([0], [1], None, seed=0)
