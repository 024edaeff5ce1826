"""The two logs of the review and what follows from them, inside a transaction of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from egoray.errors import EgorayError
from egoray.review.drafts import Draft, replay
from egoray.review.verdicts import Decision, status

_DECISION = ("key", "item_id", "reviewer", "verdict", "reason", "note", "seconds", "revision", "data_version", "undoes", "time")
_EDIT = ("step", "item_id", "reviewer", "kind", "name", "value", "source", "undoes", "data_version", "time")
_IN_FORCE = """
 SELECT * FROM decisions d WHERE item_id = ? AND data_version = ? AND undoes IS NULL
 AND NOT EXISTS (SELECT 1 FROM decisions u WHERE u.undoes = d.id) ORDER BY id
"""


class Refused(EgorayError):
    """What was asked for would overwrite another person's work, or another tab's; nothing was written."""


def settle(db: sqlite3.Connection, item_id: str) -> None:
    """Work out the item's standing decisions and status anew from the log."""
    item = item_row(db, item_id)
    standing = standing_of(db, item)
    db.execute("DELETE FROM standing WHERE item_id = ?", (item_id,))
    db.executemany("INSERT INTO standing VALUES (?,?,?)", [(item_id, d.reviewer, d.id) for d in standing])
    decided = sum(d.verdict != "skipped" for d in standing)
    db.execute("UPDATE items SET status = ?, num_decided = ? WHERE id = ?", (status(standing), decided, item_id))


def standing_of(db: sqlite3.Connection, item: Mapping[str, Any]) -> list[Decision]:
    """The latest decision in force of each person on the item, oldest first."""
    latest: dict[str, Decision] = {}
    for row in db.execute(_IN_FORCE, (item["id"], item["data_version"])):
        latest.pop(row["reviewer"], None)
        latest[row["reviewer"]] = decision_of(row)
    return list(latest.values())


def decision_of(row: Mapping[str, Any]) -> Decision:
    """The record of a row of ``decisions``."""
    return Decision(**{name: row[name] for name in Decision.__dataclass_fields__})


def draft_of(db: sqlite3.Connection, item: Mapping[str, Any], reviewer: str, revision: int | None = None) -> Draft:
    """See `Store.draft`."""
    query = "SELECT * FROM edits WHERE item_id = ? AND reviewer = ? AND data_version = ? AND id <= ? ORDER BY id"
    return replay(db.execute(query, (item["id"], reviewer, item["data_version"], 2**62 if revision is None else revision)))


def insert_decision(db: sqlite3.Connection, row: Mapping[str, Any]) -> Decision:
    """Add a row to the log, and settle its item."""
    number = _insert(db, "decisions", _DECISION, row)
    settle(db, row["item_id"])
    return decision_of(db.execute("SELECT * FROM decisions WHERE id = ?", (number,)).fetchone())


def insert_edit(db: sqlite3.Connection, row: Mapping[str, Any]) -> None:
    """Add a row to the log."""
    _insert(db, "edits", _EDIT, row)


def _insert(db: sqlite3.Connection, table: str, columns: tuple[str, ...], row: Mapping[str, Any]) -> int | None:
    names, marks = ", ".join(columns), ", ".join(f":{c}" for c in columns)
    return db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", {c: row[c] for c in columns}).lastrowid


def item_row(db: sqlite3.Connection, item_id: str) -> sqlite3.Row:
    row = db.execute("SELECT * FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        raise Refused("there is no such item")
    return row
