"""A review's store with made-up items, and a process that keeps deciding until it is killed."""

import sys
import uuid

from egoray.core.masks import ellipse_inside, encode
from egoray.review.drafts import Change, value_of
from egoray.review.store import Item, Store

SIZE_HW = (72, 96)


def items(num: int, *, double: int = 0, planted: int = 0, version: str = "v1") -> list[Item]:
    """``num`` items, hardest first, the first ``double`` of them to be decided by two people, and ``planted`` known faults after them."""
    return [
        Item(
            id=f"item{n:04d}" if n < num else f"plant{n:04d}",
            video_id=f"clip-{n // 4}",
            object_id=str(n % 4 + 1) if n < num else "1",
            title=f"thing {n}",
            planted=n >= num,
            required=2 if n < double else 1,
            hardness=1 - n / (num + planted),
            place=1 - n / (num + planted),
            reasons=("low score",),
            data_version=version,
        )
        for n in range(num + planted)
    ]


def disc(x: float) -> str:
    """A disc's mask around column ``x``, as an edit holds it."""
    return value_of(encode(ellipse_inside((x - 9, 20, x + 9, 38), SIZE_HW)))


def mask(frame: int, x: float = 30) -> Change:
    """That disc drawn in a frame."""
    return Change(kind="mask", name=str(frame), value=disc(x))


def key() -> str:
    return uuid.uuid4().hex


def decide_all(path: str, reviewer: str, tab: str) -> None:
    """Take and decide items until none is left, saying which decisions the store has confirmed."""
    store = Store(path)
    while item_id := store.next(reviewer, tab):
        step, made = key(), key()
        revision = store.edit(item_id, reviewer, tab, [mask(3)], key=step, revision=store.draft(item_id, reviewer).revision)
        store.decide(item_id, reviewer, tab, "accepted", key=made, revision=revision)
        print(item_id, step, made, flush=True)


if __name__ == "__main__":
    decide_all(*sys.argv[1:])
