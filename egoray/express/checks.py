"""What a referring expression must not be: too long, nameless, a copy, or about the picture instead of the world."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_PICTURE = re.compile(
    r"\b(bounding[- ]box\w*|(?:red|drawn|marked|highlighted|outlined) (?:box|rectangle|outline|border|frame)\w*|rectangles?|outlined|"
    r"highlighted|images?|pictures?|photos?|photographs?|frames?|video\w*|clips?|screenshots?|footage|close-?ups?)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^\W*(i['’]?m (?:really |very )?sorry|sorry|i (?:can(?:no|['’])t|cannot|am unable|am not able|won['’]t)|unfortunately|as an ai)\b"
    r"|\b(?:can(?:no|['’])t|cannot|unable to) (?:assist|help|comply|provide|identify)\b",
    re.IGNORECASE,
)
_TOO_ALIKE = 0.8
_EMPTY_WORDS = frozenset(re.split(" ", "a an the this that of to in on at and or with for by is it its one thing object item"))


def words(text: str) -> list[str]:
    """The words, lower case, a trailing plural "s" cut off; numbers count as words."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in re.findall(r"[^\W_]+", text.lower())]


def is_refusal(text: str) -> bool:
    """Whether a model declines to answer instead of answering."""
    return bool(_REFUSAL.search(text))


def alike(first: str, second: str) -> bool:
    """Whether two sentences say the same in nearly the same words: at least 0.8 of all their words are shared, order ignored."""
    a, b = set(words(first)) - _EMPTY_WORDS, set(words(second)) - _EMPTY_WORDS
    return len(a & b) >= _TOO_ALIKE * len(a | b)


def about_picture(text: str, names: Iterable[str]) -> list[str]:
    """The words that speak of the picture rather than of the world; those of the object's own names ("picture frame") are allowed."""
    allowed = {w for name in names for w in words(name)}
    return [m.group() for m in _PICTURE.finditer(text) if not set(words(m.group())) <= allowed]


def problems(text: str, *, max_words: int, names: Collection[str], siblings: Iterable[str] = ()) -> list[str]:
    """All that is wrong with a sentence, each as a phrase that a model can act upon; empty for a good one.

    Args:
        text: the sentence.
        max_words: whitespace-separated words that it may have.
        names: what the object may be called, such as its title; none of their words: the sentence names nothing.
        siblings: other sentences of the same object.
    """
    if not text.strip():
        return ["it is empty"]
    if is_refusal(text):
        return ["it is a refusal"]
    found = []
    if (count := len(text.split())) > max_words:
        found.append(f"it has {count} words, at most {max_words} are allowed")
    if spoken := about_picture(text, names):
        found.append(f"it speaks of the picture ({', '.join(map(repr, spoken))})")
    known = {w for name in names for w in words(name)} - _EMPTY_WORDS
    if known and not known & set(words(text)):
        found.append(f"it does not name the object ({' or '.join(repr(n) for n in names if n)})")
    if twin := next((s for s in siblings if alike(s, text)), None):
        found.append(f"it says the same as {twin!r}")
    return found
