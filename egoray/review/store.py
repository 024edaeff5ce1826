"""Where verdicts and edits live: one SQLite file, logs that only grow, leases so that an item has one writer.

Every public method is one transaction. A method that writes takes a ``key`` that its caller made up: sent twice, it counts once.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from egoray.core.storage import Folder
from egoray.review import ledger
from egoray.review.drafts import Change, Draft
from egoray.review.log import Refused, decision_of, draft_of, insert_decision, insert_edit, item_row, settle, standing_of
from egoray.review.tables import connect
from egoray.review.verdicts import VERDICTS, Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One object of a clip as the queue knows it; ``planted`` marks a known fault put in to test the reviewers."""

    id: str
    video_id: str
    object_id: str
    title: str
    planted: bool
    required: int
    hardness: float
    place: float
    """Its rank in the queue, the highest first."""
    reasons: tuple[str, ...]
    data_version: str


_WANTED = """
 NOT i.gone AND (i.planted OR i.status IN ('open', 'skipped', 'disputed') OR i.num_decided < i.required)
 AND NOT EXISTS (SELECT 1 FROM standing s WHERE s.item_id = i.id AND s.reviewer = :reviewer)
"""
_FREE = "NOT EXISTS (SELECT 1 FROM leases l WHERE l.item_id = i.id AND l.until > :now AND NOT (l.reviewer = :reviewer AND l.tab = :tab))"


class Store:
    """The review of one annotation folder; safe for many threads and processes.

    Args:
        path: the SQLite file; made if absent.
        lease_s: seconds that an item stays with the tab that took it or last wrote to it.
        clock: seconds since the epoch.

    Raises:
        ConfigError: if the file cannot be used.
    """

    def __init__(self, path: str, *, lease_s: float = 600, clock: Callable[[], float] = time.time) -> None:
        self.path, self.lease_s, self.clock = os.path.abspath(path), lease_s, clock
        self._db, self._lock = connect(path), threading.RLock()

    def close(self) -> None:
        """Close the file; what was confirmed is in it."""
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it ends; an exception takes it back."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the store."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("COMMIT")

    def sync(self, items: Iterable[Item]) -> None:
        """Take the items as they are annotated now; one that changed since is open again, one that is gone leaves the queue."""
        with self.writing() as db:
            before = {row["id"]: row["data_version"] for row in db.execute("SELECT id, data_version FROM items")}
            db.execute("UPDATE items SET gone = 1")
            for item in items:
                values = (item.id, item.video_id, item.object_id, item.title, item.planted, item.required, item.hardness, item.place)
                db.execute(
                    "INSERT INTO items (id, video_id, object_id, title, planted, required, hardness, place, reasons, data_version)"
                    " VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET title = excluded.title, required = excluded.required,"
                    " hardness = excluded.hardness, place = excluded.place, reasons = excluded.reasons,"
                    " data_version = excluded.data_version, gone = 0",
                    (*values, json.dumps(item.reasons), item.data_version),
                )
                if before.get(item.id, item.data_version) != item.data_version:
                    settle(db, item.id)

    def item(self, item_id: str) -> Mapping[str, Any]:
        """The item's row.

        Raises:
            Refused: if there is none.
        """
        with self.reading() as db:
            return item_row(db, item_id)

    def next(
        self,
        reviewer: str,
        tab: str,
        *,
        keep: Sequence[str] = (),
        clip: str = "",
        object_id: str = "",
        status: str = "",
        text: str = "",
    ) -> str | None:
        """Lease the hardest item that this person should look at, and that nobody else has open; None if there is none.

        Leases of this tab on items not in ``keep`` end; items in ``keep`` are renewed and passed over.
        """
        where, values = filters(clip, object_id, status, text)
        values |= {"reviewer": reviewer, "tab": tab, "now": self.clock()}
        with self.writing() as db:
            kept = set(keep)
            for row in db.execute("SELECT item_id FROM leases WHERE reviewer = ? AND tab = ?", (reviewer, tab)).fetchall():
                if row["item_id"] not in kept:
                    db.execute("DELETE FROM leases WHERE item_id = ?", (row["item_id"],))
                else:
                    self._lease(db, row["item_id"], reviewer, tab)
            marks = ",".join(f":keep{n}" for n in range(len(keep)))
            values |= {f"keep{n}": item_id for n, item_id in enumerate(keep)}
            where = f"{_WANTED} AND {_FREE} AND i.id NOT IN ({marks}) {where}"
            row = db.execute(f"SELECT i.id FROM items i WHERE {where} ORDER BY i.place DESC, i.id LIMIT 1", values).fetchone()
            if row is None:
                return None
            self._lease(db, row["id"], reviewer, tab)
            return str(row["id"])

    def open(self, item_id: str, reviewer: str, tab: str) -> None:
        """Lease this item, also one that is decided already, and also from another tab of the same person.

        Raises:
            Refused: if there is no such item, or somebody else has it open.
        """
        with self.writing() as db:
            item_row(db, item_id)
            self._check_free(db, item_id, reviewer)
            self._lease(db, item_id, reviewer, tab)

    def renew(self, reviewer: str, tab: str) -> list[str]:
        """Keep this tab's items for another lease; which they are."""
        with self.writing() as db:
            rows = db.execute("SELECT item_id FROM leases WHERE reviewer = ? AND tab = ?", (reviewer, tab)).fetchall()
            for row in rows:
                self._lease(db, row["item_id"], reviewer, tab)
            return [row["item_id"] for row in rows]

    def release(self, reviewer: str, tab: str) -> None:
        """The tab is closed: others may have its items."""
        with self.writing() as db:
            db.execute("DELETE FROM leases WHERE reviewer = ? AND tab = ?", (reviewer, tab))

    def draft(self, item_id: str, reviewer: str, revision: int | None = None) -> Draft:
        """What this person changed about the item, up to a revision or until now."""
        with self.reading() as db:
            return draft_of(db, item_row(db, item_id), reviewer, revision)

    def edit(
        self, item_id: str, reviewer: str, tab: str, changes: Sequence[Change], *, key: str, revision: int, tracked: bool = False
    ) -> int:
        """Add one step of changes to this person's draft; the new revision.

        A mask that a person drew locks its frame. With ``tracked`` the masks come from a model, and those of locked frames are left out.

        Raises:
            Refused: if the item is with somebody else, or ``revision`` is not the latest: the draft was changed elsewhere.
        """
        with self.writing() as db:
            item = item_row(db, item_id)
            if db.execute("SELECT 1 FROM edits WHERE step = ?", (key,)).fetchone():
                return draft_of(db, item, reviewer).revision
            self._check_writer(db, item, reviewer, tab)
            draft = self._latest(db, item, reviewer, revision)
            if tracked:
                changes = [c for c in changes if c.kind != "mask" or int(c.name) not in draft.locks]
            else:
                changes = [*changes, *(Change(kind="lock", name=c.name, value="1") for c in changes if c.kind == "mask" and c.value)]
            return self._append(db, item, reviewer, changes, key, "track" if tracked else "person", None)

    def undo_edit(self, item_id: str, reviewer: str, tab: str, *, key: str, revision: int) -> int:
        """Take back the last step of this person's draft that is still in force; the new revision.

        Raises:
            Refused: as `edit`, and if nothing is left to take back.
        """
        with self.writing() as db:
            item = item_row(db, item_id)
            if db.execute("SELECT 1 FROM edits WHERE step = ?", (key,)).fetchone():
                return draft_of(db, item, reviewer).revision
            self._check_writer(db, item, reviewer, tab)
            step = self._latest(db, item, reviewer, revision).undoable
            if not step:
                raise Refused("there is no change to take back")
            rows = db.execute("SELECT id, kind, name FROM edits WHERE step = ? ORDER BY id", (step,)).fetchall()
            before = draft_of(db, item, reviewer, rows[0]["id"] - 1)
            changes = [Change(kind=r["kind"], name=r["name"], value=before.value(r["kind"], r["name"])) for r in rows]
            return self._append(db, item, reviewer, changes, key, "person", step)

    def decide(
        self,
        item_id: str,
        reviewer: str,
        tab: str,
        verdict: str,
        *,
        key: str,
        revision: int = 0,
        reason: str = "",
        note: str = "",
        seconds: float = 0.0,
    ) -> Decision:
        """Record a verdict and let go of the item; accepting what one has changed is ``fixed``.

        Raises:
            Refused: as `edit`, and if somebody else has decided the item since this tab's lease ran out.
            ValueError: for an unknown verdict.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"{verdict}: not one of {', '.join(VERDICTS)}")
        with self.writing() as db:
            if row := db.execute("SELECT * FROM decisions WHERE key = ?", (key,)).fetchone():
                return decision_of(row)
            item = item_row(db, item_id)
            self._check_writer(db, item, reviewer, tab)
            draft = self._latest(db, item, reviewer, revision)
            if verdict in ("accepted", "fixed"):
                verdict = "fixed" if draft.changes_anything else "accepted"
            given = {"verdict": verdict, "reason": reason, "note": note, "seconds": seconds, "revision": revision, "undoes": None}
            done = insert_decision(db, given | self._signed(key, item, reviewer))
            db.execute("DELETE FROM leases WHERE item_id = ?", (item_id,))
            return done

    def undo(self, reviewer: str, tab: str, *, key: str) -> str:
        """Take back this person's last decision that is still in force, and lease its item; its id.

        Raises:
            Refused: if there is none, or somebody else has the item open.
        """
        with self.writing() as db:
            if row := db.execute("SELECT item_id FROM decisions WHERE key = ?", (key,)).fetchone():
                return str(row["item_id"])
            last = db.execute(
                "SELECT d.* FROM decisions d JOIN items i ON i.id = d.item_id AND i.data_version = d.data_version AND NOT i.gone"
                " WHERE d.reviewer = ? AND d.undoes IS NULL AND NOT EXISTS (SELECT 1 FROM decisions u WHERE u.undoes = d.id)"
                " ORDER BY d.id DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if last is None:
                raise Refused("there is no decision of yours to take back")
            self._check_free(db, last["item_id"], reviewer)
            given = {"verdict": "undone", "reason": "", "note": "", "seconds": 0.0, "revision": 0, "undoes": last["id"]}
            insert_decision(db, given | self._signed(key, item_row(db, last["item_id"]), reviewer))
            self._lease(db, last["item_id"], reviewer, tab)
            return str(last["item_id"])

    def history(self, item_id: str) -> list[Decision]:
        """The decisions in force on the item as it is annotated now, the latest of each person, oldest first."""
        with self.reading() as db:
            return standing_of(db, item_row(db, item_id))

    def export(self, folder: Folder | str | None = None) -> dict[str, int]:
        """Write what the dataset builder reads (see `core.reviewed`), by default beside the store; how many items have each status."""
        target = folder if isinstance(folder, Folder) else Folder(folder or os.path.dirname(self.path))
        with self.reading() as db:
            return ledger.write_tables(db, target)

    def dump(self) -> Iterator[str]:
        """The whole history as JSON lines that `load` reads."""
        with self.reading() as db:
            return iter(ledger.dump(db))

    def load(self, lines: Iterable[str], name: str = "import") -> dict[str, int]:
        """Add the history in the lines to this one; what is here already is passed over. How many decisions and edits came in.

        Raises:
            FormatError: if a line is not what `dump` writes; then nothing is added.
        """
        with self.writing() as db:
            return ledger.load(db, lines, name)

    def _lease(self, db: sqlite3.Connection, item_id: str, reviewer: str, tab: str) -> None:
        values = (item_id, reviewer, tab, self.clock() + self.lease_s)
        db.execute("INSERT OR REPLACE INTO leases (item_id, reviewer, tab, until) VALUES (?,?,?,?)", values)

    def _check_free(self, db: sqlite3.Connection, item_id: str, reviewer: str) -> sqlite3.Row | None:
        held = db.execute("SELECT * FROM leases WHERE item_id = ? AND until > ?", (item_id, self.clock())).fetchone()
        if held and held["reviewer"] != reviewer:
            raise Refused(f"{held['reviewer']} has this item open; take the next one")
        return held

    def _check_writer(self, db: sqlite3.Connection, item: sqlite3.Row, reviewer: str, tab: str) -> None:
        """Only the tab that holds the item may write; one whose lease ran out may, as long as nobody else took or decided it."""
        held = self._check_free(db, item["id"], reviewer)
        if held and held["tab"] != tab:
            raise Refused("this item is open in another tab of yours; go on there, or open it here again")
        if not held:
            values = {"id": item["id"], "reviewer": reviewer}
            if not db.execute(f"SELECT 1 FROM items i WHERE i.id = :id AND {_WANTED}", values).fetchone():
                raise Refused("your hold on this item ran out, and it was decided meanwhile; open it again to see how")
        self._lease(db, item["id"], reviewer, tab)

    def _latest(self, db: sqlite3.Connection, item: sqlite3.Row, reviewer: str, revision: int) -> Draft:
        draft = draft_of(db, item, reviewer)
        if draft.revision != revision:
            raise Refused("this item was changed in another tab of yours; it is shown anew")
        return draft

    def _signed(self, key: str, item: sqlite3.Row, reviewer: str) -> dict[str, Any]:
        """What every row of a log says: by whom, about which data, and when."""
        about = {"item_id": item["id"], "data_version": item["data_version"]}
        return about | {"key": key, "reviewer": reviewer, "time": self.clock()}

    def _append(
        self, db: sqlite3.Connection, item: sqlite3.Row, reviewer: str, changes: Sequence[Change], key: str, source: str, undoes: str | None
    ) -> int:
        for c in changes:
            given = {"kind": c.kind, "name": c.name, "value": c.value, "source": source, "undoes": undoes, "step": key}
            insert_edit(db, given | self._signed(key, item, reviewer))
        return draft_of(db, item, reviewer).revision


def filters(clip: str, object_id: str, status: str, text: str) -> tuple[str, dict[str, Any]]:
    """Conditions on ``items i`` for the filters that are given."""
    given = {"video_id": clip, "object_id": object_id, "status": status}
    where = "".join(f" AND i.{name} = :{name}" for name, value in given.items() if value)
    if text:
        where += " AND (i.title LIKE :like ESCAPE '!' OR i.video_id LIKE :like ESCAPE '!')"
    like = "%" + "".join("!" + c if c in "!%_" else c for c in text) + "%"
    return where, {name: value for name, value in given.items() if value} | ({"like": like} if text else {})
