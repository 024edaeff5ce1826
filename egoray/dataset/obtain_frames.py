"""The pictures that a released dataset names, cut from the clips: the same frames under the same names.

EgoTracks: name n is the clip's native frame 6n (its number at 5 fps of 30). RefEgo: image n, from 1, is what ffmpeg's
``fps=2,scale=640:-1`` shows at (n - 1) / 2 s of the full video: the last native frame before a quarter of a second later.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from egoray.core.storage import Folder
from egoray.core.video import frame_times, probe
from egoray.dataset.frames import Pictures, write_clip
from egoray.errors import ConfigError, EgorayError, FormatError
from egoray.formats.egomask import TIERS, clip_of
from egoray.formats.egomask_json import read_frames, read_videos

REFEGO_FPS, REFEGO_WIDTH = 2.0, 640
QUALITY = 95


def wanted_frames(dataset: str) -> dict[str, tuple[str, ...]]:
    """The frame names of each folder of pictures, by its path below the dataset; those of all tiers and of the training set.

    Raises:
        FormatError: if a table is malformed.
        ConfigError: if there is none.
    """
    folder = Folder(dataset)
    found: dict[str, dict[str, None]] = {}
    for tier in TIERS:
        name = f"subset/{tier}/meta_expressions.json"
        for video_id, entry, where in read_videos(folder, name) if folder.exists(name) else ():
            names = read_frames(entry, where)
            kind = "refego" if names and names[0].startswith("img") else "egotracks"
            found.setdefault(f"JPEGImages/{kind}/{clip_of(video_id, tier)}", {}).update(dict.fromkeys(names))
    for root in ("egomask-train/", ""):
        name = f"{root}meta_expressions/train/meta_expressions.json"
        for video_id, entry, where in read_videos(folder, name) if folder.exists(name) else ():
            found.setdefault(f"{root}train/JPEGImages/{video_id}", {}).update(dict.fromkeys(read_frames(entry, where)))
    if not found:
        raise ConfigError(f"{dataset}: names no frames; give the folder that holds subset/, as `egoray obtain egomask` fetches it")
    return {place: tuple(sorted(names)) for place, names in sorted(found.items())}


def obtain(
    dataset: str, videos: Sequence[str], *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write the pictures that are not there yet; what was written, and each folder that is lost with its reason.

    Args:
        dataset: a folder in the EgoMask layout; pictures land in it.
        videos: folders with ``<clip_uid>.mp4`` and, for RefEgo, ``<video_uid>.mp4``; their subfolders are searched too.
        workers: clips decoded at a time; None for one a core.
        progress: called with the folders done and the folders there are.

    Raises:
        ConfigError, FormatError: as `wanted_frames`.
    """
    wanted = wanted_frames(dataset)
    files = _videos(videos)
    target = Folder(dataset)
    lost: dict[str, str] = {}
    written = there = 0

    def one(place: str) -> tuple[int, int]:
        have = set((target / place).names(".jpg"))
        lacking = tuple(name for name in wanted[place] if f"{name}.jpg" not in have)
        if not lacking:
            return 0, len(wanted[place])
        uid = os.path.basename(place).split("--")[0] if "/refego/" in place else os.path.basename(place)
        if uid not in files:
            raise FormatError(f"{uid}.mp4: in none of the folders; fetch it with `egoray obtain ego4d`")
        pictures = cut(files[uid], place, lacking)
        write_clip(target, pictures, set(), QUALITY)
        return len(lacking), len(wanted[place]) - len(lacking)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        futures = {pool.submit(one, place): place for place in wanted}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                new, old = future.result()
                written, there = written + new, there + old
            except EgorayError as error:
                lost[futures[future]] = str(error)
            if progress:
                progress(done, len(wanted))
    return {
        "stage": "obtain",
        "expected": len(wanted),
        "done": len(wanted) - len(lost),
        "failed": len(lost),
        "pictures": written,
        "already_there": there,
        "lost": dict(sorted(lost.items())),
    }


def cut(path: str, place: str, names: Sequence[str]) -> Pictures:
    """Which native frames of the video the names mean.

    Raises:
        FormatError: if a name is no number, or lies past the video's end.
    """
    refego = names[0].startswith("img")
    numbers = {name: name.removeprefix("img") for name in names}
    if odd := [name for name, number in numbers.items() if not number.isdigit()]:
        raise FormatError(f"{place}: {odd[0]} is not the name of a frame")
    if refego:
        natives = refego_frames(frame_times(path), [int(number) - 1 for number in numbers.values()], path)
    else:
        stride = probe(path, "").stride
        natives = [int(number) * stride for number in numbers.values()]
    by_native: dict[int, str] = {}
    for native, name in zip(natives, names, strict=True):
        by_native[native] = name
    if len(by_native) < len(names):
        raise FormatError(f"{path}: has fewer frames than {place} names; is it the video at its full rate?")
    return Pictures(path=path, folder=place, names=dict(sorted(by_native.items())), width_px=REFEGO_WIDTH if refego else None)


def refego_frames(times: Sequence[float], images: Sequence[int], path: str = "") -> list[int]:
    """The native frame of each 0-based image at 2 fps: the last one whose time, rounded to the image grid, is not later.

    Args:
        times: seconds of each native frame, ascending.
        images: 0-based numbers of images.

    Raises:
        FormatError: if an image lies past the last frame.
    """
    found = []
    for image in images:
        place = bisect_left(times, (image + 0.5) / REFEGO_FPS - 1e-9) - 1
        if place < 0 or image > round(times[-1] * REFEGO_FPS):
            raise FormatError(f"{path}: lasts {times[-1]:.1f} s, but image {image + 1} is at {image / REFEGO_FPS:.1f} s")
        found.append(place)
    return found


def _videos(folders: Sequence[str]) -> Mapping[str, str]:
    """The path of each mp4 below the folders by its name; the first one wins."""
    found: dict[str, str] = {}
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigError(f"--videos {folder}: no such folder; give where `egoray obtain ego4d` put the clips")
        for root, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if name.endswith(".mp4"):
                    found.setdefault(name.removesuffix(".mp4"), os.path.join(root, name))
    return found
