"""What has been spent in a work folder, kept so that no crash can make it forget a dollar.

``spend.json`` holds what is spent and what is reserved by requests on their way; it is written before they leave. What a run that
died had reserved counts as spent. Each batch keeps its own reservation and cost in its record.
"""

from __future__ import annotations

from typing import Any

from egoray.core.storage import Folder

_FILE = "spend.json"


def spent_online(out: Folder) -> float:
    """USD that requests outside batches have cost, what was reserved when a run died counted in full."""
    online = out.read_json(_FILE) if out.exists(_FILE) else {"spent_usd": 0.0, "reserved_usd": 0.0}
    return float(online["spent_usd"] + online["reserved_usd"])


def spent(out: Folder) -> float:
    """USD spent in the folder so far; open batches count with what they may cost."""
    return spent_online(out) + sum(batch_usd(record) for record in read_batches(out).values())


def keep(out: Folder, spent_usd: float, reserved_usd: float) -> None:
    """Write down what requests outside batches have spent and reserved, earlier runs included."""
    out.write_json(_FILE, {"spent_usd": round(spent_usd, 9), "reserved_usd": round(reserved_usd, 9)})


def read_batches(out: Folder) -> dict[str, dict[str, Any]]:
    """The records of all batches by name."""
    folder = out / "batches"
    return {name.removesuffix(".json"): folder.read_json(name) for name in folder.names(".json")}


def batch_usd(record: dict[str, Any]) -> float:
    """What a batch has cost, or has reserved while it is open."""
    return float(record["spent_usd"] if record["state"] == "collected" else record["reserved_usd"])
