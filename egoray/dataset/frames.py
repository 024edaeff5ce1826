"""A dataset's pictures: the kept frames of each clip as JPEG, several clips at a time, none of them twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import cv2

from egoray.config import BuildConfig
from egoray.core import paths
from egoray.core.storage import Folder
from egoray.core.video import digest, read_frames
from egoray.errors import ConfigError

RECORD = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of one clip: ``names[native frame]``, ascending, to be written to ``folder`` from the video at ``path``.

    ``width_px`` is that of the pictures, their height in proportion; None for the video's own.
    """

    path: str
    folder: str
    names: Mapping[int, str]
    width_px: int | None = None


def write_pictures(out: Folder, wanted: Sequence[Pictures], config: BuildConfig, progress: Callable[[int], None] | None = None) -> None:
    """Empty ``out`` of an earlier build but for its pictures that still hold, and write those that lack.

    ``run.json`` says which clip each folder's pictures are from, so a rerun after a stop decodes only what is not there.
    A clip that is a folder of JPEGs is copied byte for byte.

    Raises:
        ConfigError: if ``out`` holds files that no build wrote.
        FormatError: if a clip cannot be decoded.
    """
    made_from = {p.folder: f"{digest(p.path)} {config.jpeg_quality}" for p in wanted}
    before = out.read_json(RECORD) if out.exists(RECORD) else {}
    files = out.files()
    if files and before.get("stage") != "build":
        raise ConfigError(f"{out.uri}: holds files that no build wrote, such as {files[0]}; give a new or empty folder to --out")
    same = {folder for folder, origin in made_from.items() if before.get("pictures", {}).get(folder) == origin}
    keep = {f"{p.folder}/{name}.jpg" for p in wanted if p.folder in same for name in p.names.values()}
    for name in files:
        if name not in keep and name != RECORD:
            out.delete(name)
    out.write_json(RECORD, {"stage": "build", "pictures": made_from})
    there = keep.intersection(files)
    with ThreadPoolExecutor(config.workers or os.cpu_count()) as pool:
        futures = [pool.submit(write_clip, out, p, there, config.jpeg_quality) for p in wanted]
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            if progress:
                progress(done)


def write_clip(out: Folder, pictures: Pictures, there: set[str], quality: int) -> None:
    """Write one clip's pictures, but for the paths in ``there``, as JPEG of that quality.

    Raises:
        FormatError: if the clip cannot be decoded, or ends before a frame.
    """
    lacking = {n: path for n, name in pictures.names.items() if (path := f"{pictures.folder}/{name}.jpg") not in there}
    if paths.is_folder(pictures.path):
        found = [n for n, _ in paths.listing(pictures.path) if n.lower().endswith((".jpg", ".jpeg", ".png"))]
        for n in [n for n in lacking if n < len(found) and found[n].lower().endswith(("jpg", "jpeg"))]:
            out.write_bytes(lacking.pop(n), paths.read(paths.join(pictures.path, found[n])))
    for n, rgb in read_frames(pictures.path, list(lacking), threads=1):
        bgr = rgb[:, :, ::-1]
        if pictures.width_px:
            height = round(bgr.shape[0] * pictures.width_px / bgr.shape[1])
            bgr = cv2.resize(bgr, (pictures.width_px, height), interpolation=cv2.INTER_AREA)
        out.write_bytes(lacking[n], cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
