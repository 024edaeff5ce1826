"""Training sentences: true of exactly what they say, by an oracle that reads the facets one by one."""

import numpy as np
import pytest

from egoray.synthetic.objects import Attributes
from egoray.train.queries import ANY, FACETS, NEVER, NUM_VALUES, Query, answers, draw_queries, say, thing_codes

MUG = Attributes(noun="mug", colour="red", material="plain", text="TEA", scale=1.0)
BIG = Attributes(noun="mug", colour="red", material="plain", text="TEA", scale=1.55)
PAN = Attributes(noun="pan", colour="blue", material="wooden", text="", scale=0.7)
CODES = thing_codes([MUG, BIG, PAN], np.array([False, True, False]))


def query(**facets):
    return Query("", tuple(facets.get(name, ANY) for name in FACETS))


def test_codes_tell_twins_sizes_and_the_hand():
    assert CODES[:, FACETS.index("held")].tolist() == [0, 1, 0]
    assert CODES[:, FACETS.index("size")].tolist() == [0, 1, 2]
    assert CODES[:, FACETS.index("twin")].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("facets", "meant", "known"),
    [
        ({}, [True, True, True], [True, True, True]),
        ({"noun": CODES[0, 0]}, [True, True, False], [True, True, True]),
        ({"noun": NEVER, "colour": CODES[0, 1]}, [False, False, False], [True, True, True]),
        ({"held": 1}, [False, True, False], [True, True, True]),
        ({"size": 1}, [False, True, False], [False, True, True]),  # an ordinary mug is neither large nor not
        ({"size": 1, "noun": CODES[2, 0]}, [False, False, False], [True, True, True]),  # but it is no pan
        ({"twin": 1}, [False, True, False], [True, True, False]),
    ],
)
def test_answers(facets, meant, known):
    truth, said = answers(CODES, [query(**facets)])
    assert truth[:, 0].tolist() == meant
    assert said[:, 0].tolist() == known


def test_drawn_sentences_mix_true_ones_look_alikes_and_the_absent():
    queries = draw_queries(CODES, 2000, np.random.default_rng(0))
    truth, _ = answers(CODES, queries)
    never = np.array([q.codes[0] == NEVER for q in queries])
    assert 0.05 < never.mean() < 0.15
    assert not truth[:, never].any()
    assert 0.4 < truth.any(axis=0).mean() < 0.8
    assert all(0 <= code < num or code in (ANY, NEVER) for q in queries for code, num in zip(q.codes, NUM_VALUES, strict=True))
    assert len({q.text for q in queries}) > 500


def test_a_sentence_says_what_it_asks_for():
    rng = np.random.default_rng(1)
    said = [say((CODES[0, 0], CODES[0, 1], ANY, CODES[0, 3], ANY, ANY, ANY), rng).text for _ in range(50)]
    assert all("red" in text and "TEA" in text for text in said)
    assert all(any(word in text for word in ("mug", "cup", "drinking hot drinks")) for text in said)


def test_no_things_give_sentences_all_the_same():
    assert len(draw_queries(np.zeros((0, 7), np.int64), 20, np.random.default_rng(0))) == 20
