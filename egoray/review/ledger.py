"""The review in files: its whole history as JSON lines, and its outcome as the tables that the dataset builder reads."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from egoray.core.reviewed import write_reviewed
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.review.drafts import mask_of
from egoray.review.log import draft_of, insert_decision, insert_edit, settle, standing_of
from egoray.review.verdicts import Decision, winner

_ITEM = ("id", "video_id", "object_id", "title", "planted", "required", "hardness", "place", "reasons", "data_version")


def write_tables(db: sqlite3.Connection, folder: Folder) -> dict[str, int]:
    """Write the outcome of every decided item; how many have each status.

    A dispute counts as skipped, and its note says who said what. Corrections are those of the decision that won.
    """
    rows: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    query = "SELECT * FROM items WHERE NOT planted AND NOT gone AND status != 'open' ORDER BY video_id, length(object_id), object_id"
    for item in db.execute(query).fetchall():
        standing = standing_of(db, item)
        best = winner(standing)
        last = best or standing[-1]
        ids = {"video_id": item["video_id"], "object_id": item["object_id"]}
        about = {"status": best.verdict if best else "skipped", "reviewer": last.reviewer, "data_version": last.data_version}
        rows.append(ids | about | {"time": datetime.fromtimestamp(last.time, UTC).isoformat(), "note": _note(best, standing)})
        if best and best.verdict == "fixed":
            draft = draft_of(db, item, best.reviewer, best.revision)
            for frame, value in sorted(draft.masks.items()):
                rle = mask_of(value)
                masks.append(ids | {"frame": frame, "height": rle.size[0], "width": rle.size[1], "counts": rle.counts})
            sentences += [{"expression_id": name, "text": text} for name, text in sorted(draft.texts.items())]
    write_reviewed(folder, rows, masks, sentences)
    return dict(Counter(row["status"] for row in rows))


def _note(best: Decision | None, standing: list[Decision]) -> str:
    if best is None:
        told = [d for d in standing if d.verdict != "skipped"]
        return "disputed: " + ", ".join(f"{d.reviewer} {d.verdict}" for d in told) if told else standing[-1].note
    return ": ".join(part for part in (best.reason, best.note) if part)


def dump(db: sqlite3.Connection) -> list[str]:
    """Items, edits and decisions, a JSON object a line, in the order in which they came in."""
    lines = [{"type": "item"} | {name: row[name] for name in _ITEM} for row in db.execute("SELECT * FROM items ORDER BY id")]
    steps: dict[int, str] = {0: ""}
    for row in db.execute("SELECT * FROM edits ORDER BY id"):
        steps[row["id"]] = row["step"]
        lines.append({"type": "edit"} | {name: row[name] for name in row.keys() if name != "id"})  # noqa: SIM118
    keys: dict[int | None, str] = {None: ""}
    for row in db.execute("SELECT * FROM decisions ORDER BY id"):
        keys[row["id"]] = row["key"]
        given = {name: row[name] for name in row.keys() if name not in ("id", "revision", "undoes")}  # noqa: SIM118
        lines.append({"type": "decision"} | given | {"covers": steps[row["revision"]], "undoes": keys[row["undoes"]]})
    return [json.dumps(line, ensure_ascii=False, sort_keys=True) for line in lines]


def load(db: sqlite3.Connection, lines: Iterable[str], name: str) -> dict[str, int]:
    """See `Store.load`; ``name`` is the file, for errors."""
    added = {"decisions": 0, "edits": 0, "known already": 0, "items": 0}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _load_line(db, json.loads(line), added)
        except (ValueError, KeyError, TypeError, AttributeError, sqlite3.IntegrityError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise FormatError(f"{name}, line {number}: not a line of an exported review ({reason}); nothing was imported") from error
    for row in db.execute("SELECT id FROM items").fetchall():
        settle(db, row["id"])
    return added


def _load_line(db: sqlite3.Connection, line: dict[str, Any], added: dict[str, int]) -> None:
    kind = line["type"]
    if kind == "item":
        marks = ", ".join(f":{n}" for n in _ITEM)
        query = f"INSERT OR IGNORE INTO items ({', '.join(_ITEM)}, gone) VALUES ({marks}, 1)"  # the next sync says whether it is there
        added["items"] += db.execute(query, {n: line[n] for n in _ITEM}).rowcount
    elif kind == "edit":
        if db.execute(
            "SELECT 1 FROM edits WHERE step = ? AND kind = ? AND name = ?", (line["step"], line["kind"], line["name"])
        ).fetchone():
            added["known already"] += 1
            return
        insert_edit(db, line)
        added["edits"] += 1
    elif kind == "decision":
        if db.execute("SELECT 1 FROM decisions WHERE key = ?", (line["key"],)).fetchone():
            added["known already"] += 1
            return
        revision = db.execute("SELECT COALESCE(MAX(id), 0) FROM edits WHERE step = ?", (line["covers"],)).fetchone()[0]
        undone = db.execute("SELECT id FROM decisions WHERE key = ?", (line["undoes"],)).fetchone()
        if line["undoes"] and undone is None:
            raise ValueError("it takes back a decision that is not there")
        insert_decision(db, line | {"revision": revision, "undoes": undone[0] if undone else None})
        added["decisions"] += 1
    else:
        raise ValueError(f"unknown type {kind!r}")
