"""The report's part on referring expressions: what each object is called, beside its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from egoray.core.storage import Folder
from egoray.core.workfolder import read_expressions
from egoray.schema import Expression

Rows = Sequence[Mapping[str, str]]
"""An expression each: text, kind, origin, and why a person should look at it ("" for no doubt)."""

_FIRST = ("short", "long")


def expression_rows(source: Folder) -> dict[tuple[str, str], Rows]:
    """The expressions of an annotation folder by (video_id, object_id), the short ones first; empty where none were made.

    Raises:
        FormatError: if a table cannot be read.
    """
    return {key: [_row(e) for e in sorted(group, key=_order)] for key, group in (read_expressions(source) or {}).items()}


def _order(expression: Expression) -> tuple[int, str, str]:
    place = _FIRST.index(expression.kind) if expression.kind in _FIRST else len(_FIRST)
    return place, expression.kind, expression.text


def _row(expression: Expression) -> dict[str, str]:
    origin = expression.model or expression.source
    return {"text": expression.text, "kind": expression.kind, "origin": origin, "review": expression.review}
