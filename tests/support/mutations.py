"""A JSON document with one place made wrong, wherever and however chance says."""

import copy
import random

WRONG = (None, 3, -1, 1.5, "x", "", "../x", [], {}, [None], {"a": 1}, True, 10**30)


def mutate(document, seed):
    """A copy in which a value is replaced, dropped or doubled."""
    rng = random.Random(seed)
    root = [copy.deepcopy(document)]
    place, key = root, 0
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    how = rng.random()
    if how < 0.7 or place is root:
        place[key] = rng.choice(WRONG)
    elif how < 0.9 or isinstance(place, dict):
        del place[key]
    else:
        place.insert(key, copy.deepcopy(place[key]))
    return root[0]
