"""Metadata of an object to sentences: each template composes some of its facets into one referring expression."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

VERSION = "templates-1"
FACETS = ("caption", "attributes", "relations", "text", "knowledge", "function")
"""Noun phrase; looks; where it is among other things; writing on it; what it is known to be; what it is used for."""

_TEMPLATES = (  # kind, facets it needs, sentence
    ("attributes", ("attributes",), "the {caption}, {attributes}"),
    ("function", ("function",), "the {caption} used {use}"),
    ("relation", ("relations",), "the {caption} {relations}"),
    ("text", ("text",), 'the {caption} that reads "{text}"'),
    ("knowledge", ("knowledge",), "the {caption}, {knowledge}"),
    ("function and relation", ("function", "relations"), "the {caption} {relations}, used {use}"),
    ("attributes and relation", ("attributes", "relations"), "the {caption} {relations}, {attributes}"),
)
_NOTHING = {"", "none", "n/a", "na", "unknown", "null", "no text", "nothing"}
_LEADING = {
    "caption": r"(?:the|a|an|this|that)\s+",
    "attributes": r"(?:(?:it|which|that)\s+is\s+)",
    "relations": r"(?:(?:it|which|that)\s+is\s+)",
    "function": r"(?:(?:it|which|that)\s+)?(?:is\s+)?(?:used\s+)?(?:to|for)\s+",
    "text": r"(?:it\s+)?(?:reads|says)\s+",
    "knowledge": r"(?:(?:it|which|that)\s+is\s+)",
}


def clean(metadata: Mapping[str, str]) -> dict[str, str]:
    """The facets without articles, quotes, full stops and words for "nothing"; a facet that says nothing is the empty string."""
    cleaned = {}
    for facet in FACETS:
        text = " ".join(str(metadata.get(facet, "")).split()).strip(" .;,\"'“”")
        text = re.sub(rf"^{_LEADING[facet]}", "", text, flags=re.IGNORECASE).strip(" .;,\"'“”")
        cleaned[facet] = "" if text.lower() in _NOTHING else text
    return cleaned


def compose(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(kind, sentence) of every template whose facets are there, the simplest first; nothing without a caption.

    Source: EgoMask composes expressions from metadata by templates that are not released; these are our own.
    """
    facets = clean(metadata)
    if not facets["caption"]:
        return
    use = ("for " if facets["function"].split(" ")[0].endswith("ing") else "to ") + facets["function"]
    for kind, needed, sentence in _TEMPLATES:
        if all(facets[facet] for facet in needed):
            yield kind, sentence.format(**facets, use=use)
