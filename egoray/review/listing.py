"""The queue as people look at it: filtered rows, hardest first, and how far the review is."""

from __future__ import annotations

import json
from typing import Any

from egoray.review.store import Store, filters
from egoray.review.verdicts import STATUSES

_SECOND_LOOK = """i.num_decided BETWEEN 1 AND i.required - 1
 AND NOT EXISTS (SELECT 1 FROM standing s WHERE s.item_id = i.id AND s.reviewer = :viewer)"""
_SHOWN = f"CASE WHEN {_SECOND_LOOK} THEN 'open' ELSE i.status END"


def listing(
    store: Store,
    viewer: str,
    *,
    clip: str = "",
    object_id: str = "",
    status: str = "",
    text: str = "",
    reviewer: str = "",
    offset: int = 0,
    limit: int = 200,
) -> dict[str, Any]:
    """Rows of the items that pass the filters, how many those are, and the progress over all items; planted faults never show.

    An item that ``viewer`` is to give a second opinion on looks open to them, whatever the first was.
    ``reviewer`` keeps the items with a decision of that person in force.
    """
    where, values = filters(clip, object_id, "", text)
    where = f"WHERE NOT i.gone AND NOT i.planted {where}"
    values["viewer"] = viewer
    if status:
        where += f" AND {_SHOWN} = :status"
        values["status"] = status
    if reviewer:
        where += " AND EXISTS (SELECT 1 FROM standing s WHERE s.item_id = i.id AND s.reviewer = :by)"
        values["by"] = reviewer
    with store.reading() as db:
        total = db.execute(f"SELECT COUNT(*) FROM items i {where}", values).fetchone()[0]
        found = db.execute(
            f"SELECT i.id, i.video_id, i.object_id, i.title, {_SHOWN} AS status, i.hardness, i.reasons, l.reviewer AS held_by,"
            " (SELECT GROUP_CONCAT(s.reviewer, ', ') FROM standing s WHERE s.item_id = i.id) AS reviewers"
            f" FROM items i LEFT JOIN leases l ON l.item_id = i.id AND l.until > :now {where}"
            " ORDER BY i.place DESC, i.id LIMIT :limit OFFSET :offset",
            values | {"now": store.clock(), "limit": limit, "offset": offset},
        ).fetchall()
        counts = dict.fromkeys(STATUSES, 0)
        counts |= {r[0]: r[1] for r in db.execute("SELECT status, COUNT(*) FROM items WHERE NOT gone AND NOT planted GROUP BY status")}
        second = db.execute(
            "SELECT COUNT(*) FROM items WHERE NOT gone AND NOT planted AND num_decided BETWEEN 1 AND required - 1"
        ).fetchone()[0]
        clips = [r[0] for r in db.execute("SELECT DISTINCT video_id FROM items WHERE NOT gone AND NOT planted ORDER BY 1")]
        people = [r[0] for r in db.execute("SELECT DISTINCT reviewer FROM standing ORDER BY 1")]
    rows = [dict(row) | {"reasons": json.loads(row["reasons"])} for row in found]
    return {"rows": rows, "total": total, "counts": counts, "second_look": second, "clips": clips, "reviewers": people}
