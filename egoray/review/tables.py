"""The review's SQLite tables: two logs that only grow, and what follows from them.

``decisions`` and ``edits`` are the truth, and triggers keep them append-only. ``standing`` and the status of an item follow from
the decisions and can be worked out again; ``leases`` are forgotten when they expire.
"""

from __future__ import annotations

import os
import sqlite3

from egoray.errors import ConfigError

VERSION = 1

_TABLES = """
CREATE TABLE items (
  id TEXT PRIMARY KEY, video_id TEXT NOT NULL, object_id TEXT NOT NULL, title TEXT NOT NULL, planted INTEGER NOT NULL,
  required INTEGER NOT NULL, hardness REAL NOT NULL, place REAL NOT NULL, reasons TEXT NOT NULL, data_version TEXT NOT NULL,
  gone INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL DEFAULT 'open', num_decided INTEGER NOT NULL DEFAULT 0);
CREATE INDEX items_by_place ON items (place DESC, id);
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, item_id TEXT NOT NULL REFERENCES items, reviewer TEXT NOT NULL,
  verdict TEXT NOT NULL, reason TEXT NOT NULL, note TEXT NOT NULL, seconds REAL NOT NULL, revision INTEGER NOT NULL,
  data_version TEXT NOT NULL, undoes INTEGER REFERENCES decisions, time REAL NOT NULL);
CREATE INDEX decisions_of_item ON decisions (item_id);
CREATE INDEX decisions_by_reviewer ON decisions (reviewer, id);
CREATE TABLE edits (
  id INTEGER PRIMARY KEY AUTOINCREMENT, step TEXT NOT NULL, item_id TEXT NOT NULL REFERENCES items, reviewer TEXT NOT NULL,
  kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT, source TEXT NOT NULL, undoes TEXT, data_version TEXT NOT NULL,
  time REAL NOT NULL, UNIQUE (step, kind, name));
CREATE INDEX edits_of_item ON edits (item_id, reviewer);
CREATE TABLE standing (
  item_id TEXT NOT NULL REFERENCES items, reviewer TEXT NOT NULL, decision INTEGER NOT NULL REFERENCES decisions,
  PRIMARY KEY (item_id, reviewer)) WITHOUT ROWID;
CREATE TABLE leases (
  item_id TEXT PRIMARY KEY REFERENCES items, reviewer TEXT NOT NULL, tab TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE reviewers (name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL) WITHOUT ROWID;
"""
_APPEND_ONLY = """
CREATE TRIGGER {table}_keeps_{event} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '{table} only grow'); END;
"""


def connect(path: str) -> sqlite3.Connection:
    """The database at ``path``, made if it is not there; every commit is on disk before it returns.

    Raises:
        ConfigError: if it cannot be opened, is no database, or was written by a newer egoray.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            logs = [_APPEND_ONLY.format(table=t, event=e) for t in ("decisions", "edits") for e in ("UPDATE", "DELETE")]
            for statement in [*filter(str.strip, _TABLES.split(";\n")), *logs]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: cannot be used as the review's store ({error}); check the path, or give another --store") from error
    if version > VERSION:
        raise ConfigError(f"{path}: was written by a newer egoray (store version {version}); update egoray")
    return db
