"""What the checks of `egoray express` say of a sentence while it is written, and which other objects it may mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egoray.express.checks import problems, words
from egoray.review.annotations import Subject

_SHORT_WORDS, _LONG_WORDS = 10, 40
"""Words of a sentence of kind "short", and of any other."""


def check(subject: Subject, expression_id: str, text: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """``problems`` of the sentence, each a phrase, and ``also``: the clip's other objects that it may mean.

    Those are the ones with the object's own name, and those whose name it says without saying the object's.

    Args:
        subject: the object.
        expression_id: which of its sentences is written.
        text: the sentence.
        texts: the other sentences where they differ from the generated ones; an empty one is dropped.

    Raises:
        KeyError: if the object has no such sentence.
    """
    known = {e.expression_id: e for e in subject.expressions}
    limit = _SHORT_WORDS if known[expression_id].kind == "short" else _LONG_WORDS
    siblings = [texts.get(name, e.text) for name, e in known.items() if name != expression_id]
    said = set(words(text))
    title = set(words(subject.track.title))
    also = [t for t in subject.others if (named := set(words(t.title))) and named <= said and (named == title or not title <= said)]
    faults = (
        problems(text, max_words=limit, names=[subject.track.title], siblings=[s for s in siblings if s.strip()]) if text.strip() else []
    )
    return {"problems": faults, "also": [{"object_id": t.object_id, "title": t.title} for t in also]}
