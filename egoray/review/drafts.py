"""What a person has changed about an item so far, replayed from the log of edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from egoray.schema import MaskRLE

Kind = Literal["mask", "lock", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change: of the mask or the lock of a frame (``name`` is its number), or of the text of a sentence (its id).

    ``value`` is the new mask (see `value_of`), "1" for a lock, the new text; None means "as generated" or "unlocked".
    """

    kind: Kind
    name: str
    value: str | None


def value_of(rle: MaskRLE) -> str:
    """A mask as a `Change` holds it: height, width and run lengths, parted by blanks."""
    return f"{rle.size[0]} {rle.size[1]} {rle.counts}"


def mask_of(value: str) -> MaskRLE:
    """The mask that `value_of` wrote."""
    height, width, counts = value.split(" ", 2)
    return MaskRLE(size=(int(height), int(width)), counts=counts)


@dataclass(slots=True, kw_only=True)
class Draft:
    """The changes in force: ``masks[frame]`` (see `mask_of`), locked frames, ``texts[expression_id]``; ``revision``: the last edit."""

    masks: dict[int, str] = field(default_factory=dict)
    locks: set[int] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    undoable: str = ""
    """The step that an undo would take back; empty for none."""

    @property
    def changes_anything(self) -> bool:
        """Whether the item is no longer as it was generated (a lock alone changes nothing)."""
        return bool(self.masks or self.texts)

    def value(self, kind: str, name: str) -> str | None:
        """The value in force, in the terms of `Change`."""
        if kind == "lock":
            return "1" if int(name) in self.locks else None
        return self.masks.get(int(name)) if kind == "mask" else self.texts.get(name)

    def apply(self, kind: str, name: str, value: str | None) -> None:
        """Put one change into force."""
        if kind == "lock":
            (self.locks.add if value else self.locks.discard)(int(name))
            return
        target: dict[Any, str] = self.masks if kind == "mask" else self.texts
        key: Any = int(name) if kind == "mask" else name
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


def replay(edits: Iterable[Mapping[str, Any]]) -> Draft:
    """The draft after the edits, oldest first."""
    draft, steps, undone = Draft(), {}, set()
    for edit in edits:
        draft.apply(edit["kind"], edit["name"], edit["value"])
        draft.revision = edit["id"]
        if edit["undoes"]:
            undone.add(edit["undoes"])
        else:
            steps[edit["step"]] = True
    draft.undoable = next((step for step in reversed(steps) if step not in undone), "")
    return draft
