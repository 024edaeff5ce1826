"""Ego4D clips and videos by their ids, from the store that Ego4D's licence opens, with the user's own credentials.

Layout and manifest are those of Ego4D's own command: ``<store>/<version>/<dataset>/manifest.csv`` says where each file lies,
and files land in ``OUT/<version>/<dataset>/<uid>.mp4``; a folder that either of the two began, the other goes on with.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from pyarrow import fs

from egoray.core.storage import Folder
from egoray.errors import ConfigError, FormatError

STORE = "s3://ego4d-consortium-sharing/public"
LICENCE = (
    "Ego4D: sign its licence at https://ego4ddataset.com first; the keys that it sends you end after 14 days. "
    "Clips must not be passed on; delete them when the licence ends."
)
RECORD = "obtained.json"
_PIECE = 8 << 20
_PLACES = ("canonical_s3_location", "s3_path", "s3_location")
_IDS = ("file_uid", "exported_clip_uid", "clip_uid", "video_uid")


def read_ids(given: Iterable[str]) -> list[str]:
    """Ids, each once, from ids and files of ids: separated by white space, or the videos and clips of a JSON file.

    A RefEgo clip ``<video>--<first>-<count>`` and a medium clip ``<clip>--...`` mean what is before the "--".

    Raises:
        FormatError: if a file holds none.
    """
    ids: dict[str, None] = {}
    for item in given:
        if not os.path.isfile(item):
            ids[item.split("--")[0]] = None
            continue
        text = Path(item).read_text(encoding="utf-8")
        found = _json_ids(json.loads(text)) if text.lstrip().startswith(("{", "[")) else text.split()
        if not found:
            raise FormatError(f"{item}: holds no ids; expected them separated by white space, or JSON with videos")
        ids |= dict.fromkeys(name.split("--")[0] for name in found)
    return list(ids)


def _json_ids(document: Any) -> list[str]:
    videos = document.get("videos", document) if isinstance(document, dict) else document
    if isinstance(videos, dict):
        return [str(key) for key in videos]
    clips = [clip for video in videos if isinstance(video, dict) for clip in video.get("clips", [])]
    return [str(c.get("exported_clip_uid") or c["clip_uid"]) for c in clips] or [v for v in videos if isinstance(v, str)]


def obtain(
    ids: Sequence[str],
    out: str,
    *,
    dataset: str = "clips",
    version: str = "v2",
    store: str = STORE,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fetch the files of the ids; what was fetched, what was there, and each id that is lost with its reason.

    A file cut short goes on at its last byte, unless the store's has changed. Its size is compared with the store's, its
    SHA-256 is kept in ``obtained.json`` and compared when the same command runs again.

    Args:
        ids: clip uids for ``clips``, video uids for ``full_scale``.
        out: the folder that Ego4D's own command takes as its output directory.
        dataset: clips, clips_540ss, full_scale, video_540ss.
        version: v1 (RefEgo's) or v2.
        store: the root of the releases.
        workers: files at a time.
        progress: called with the bytes fetched so far and the bytes there are to fetch.

    Raises:
        ConfigError: if the store cannot be read: no credentials, expired ones, no network.
        FormatError: if the manifest is malformed.
    """
    folder = Path(out) / version / dataset
    manifest = _read(f"{store}/{version}/{dataset}/manifest.csv")
    places = _places(manifest.decode("utf-8", "replace"), f"{store}/{version}/{dataset}/manifest.csv")
    folder.mkdir(parents=True, exist_ok=True)
    Folder(str(folder)).write_bytes("manifest.csv", manifest)
    record: dict[str, dict[str, Any]] = Folder(str(folder)).read_json(RECORD) if (folder / RECORD).exists() else {}
    lost = {uid: f"not in the manifest of {dataset} {version}; is it an id of another data set?" for uid in ids if uid not in places}
    sizes: dict[str, fs.FileInfo] = {}
    with ThreadPoolExecutor(16) as pool:
        wanted = [uid for uid in ids if uid in places]
        for uid, info in zip(wanted, pool.map(lambda uid: _info(places[uid]), wanted), strict=True):
            if isinstance(info, str):
                lost[uid] = info
            else:
                sizes[uid] = info
    there = [uid for uid in sizes if _whole(folder / f"{uid}.mp4", sizes[uid].size, record.get(uid))]
    todo = [uid for uid in sizes if uid not in there]
    total, fetched = sum(sizes[uid].size for uid in todo), 0

    def tick(number: int) -> None:
        nonlocal fetched
        fetched += number
        if progress:
            progress(fetched, total)

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_fetch, places[uid], folder / f"{uid}.mp4", sizes[uid], tick): uid for uid in todo}
        for future in as_completed(futures):
            uid = futures[future]
            try:
                record[uid] = future.result()
                Folder(str(folder)).write_json(RECORD, record)
            except (OSError, FormatError) as error:
                lost[uid] = f"{' '.join(str(error).split())}; the same command goes on where it stopped"
    return {
        "stage": "obtain",
        "folder": str(folder),
        "expected": len(ids),
        "done": len(ids) - len(lost),
        "failed": len(lost),
        "already_there": len(there),
        "bytes": fetched,
        "lost": lost,
        "licence": LICENCE,
    }


def _places(text: str, where: str) -> dict[str, str]:
    """Where each id's file lies."""
    reader = csv.DictReader(io.StringIO(text))
    columns = reader.fieldnames or []
    place = next((name for name in _PLACES if name in columns), None)
    if place is None or not any(name in columns for name in _IDS):
        raise FormatError(f"{where}: not a manifest; expected a column of {', '.join(_IDS)} and one of {', '.join(_PLACES)}")
    found: dict[str, str] = {}
    for row in reader:
        for name in reversed(_IDS):  # a clip's row names its video too; many clips have one video
            if row.get(name) and (name != "video_uid" or not any(row.get(other) for other in _IDS[:-1])):
                found[row[name]] = row[place] or ""
    return found


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    """The store behind an address; S3 with the environment's credentials, profile, region and endpoint."""
    if not uri.startswith("s3://"):
        return fs.LocalFileSystem(), uri
    bucket = uri.removeprefix("s3://").split("/")[0]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    scheme, _, host = endpoint.partition("://") if endpoint else ("https", "", None)
    return fs.S3FileSystem(region=region, endpoint_override=host, scheme=scheme), uri.removeprefix("s3://")


def _read(uri: str) -> bytes:
    try:
        store, path = _open(uri)
        with store.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise ConfigError(
            f"{uri}: cannot be read ({' '.join(str(error).split())[:200]}); put the keys of your Ego4D licence into `aws configure` "
            "(AWS_PROFILE chooses among several; they end after 14 days), and check version and data set"
        ) from error


def _info(uri: str) -> fs.FileInfo | str:
    """Size and time of the file, or why it cannot be fetched."""
    if not uri:
        return "the manifest has no place for it"
    try:
        store, path = _open(uri)
        info = store.get_file_info(path)
    except OSError as error:
        return f"{uri}: {' '.join(str(error).split())[:200]}"
    return info if info.type == fs.FileType.File else f"{uri}: not in the store"


def _whole(path: Path, size: int, known: dict[str, Any] | None) -> bool:
    """Whether the file is there: of the store's size, and with the sum that was noted when it came."""
    return path.is_file() and path.stat().st_size == size and (known is None or known["sha256"] == _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(uri: str, path: Path, info: fs.FileInfo, tick: Callable[[int], None]) -> dict[str, Any]:
    """Fetch into a part file that is named after the store's version of it, then rename."""
    store, place = _open(uri)
    part = path.with_name(f"{path.name}.{info.size}-{info.mtime_ns or 0}.part")
    for other in path.parent.glob(f"{path.name}.*.part"):
        if other != part:
            other.unlink()
    start = part.stat().st_size if part.exists() else 0
    tick(start)
    with store.open_input_file(place) as source, part.open("ab") as sink:
        source.seek(start)
        while piece := source.read(_PIECE):
            sink.write(piece)
            tick(len(piece))
    if part.stat().st_size != info.size:
        found = part.stat().st_size
        part.unlink()
        raise FormatError(f"{uri}: {found} bytes came of {info.size}")
    os.replace(part, path)
    return {"bytes": info.size, "sha256": _sha256(path), "from": uri}
