"""Small clips and their EgoTracks file, written by hand (not by egoray's own writer), for the stages to read."""

import json
import os
from pathlib import Path

import av
import numpy as np

STRIDE = 6
SIZE_HW = (72, 96)


def disc(frame: int, number: int, size_hw: tuple[int, int] = SIZE_HW) -> tuple[np.ndarray, list[float]]:
    """A disc that wanders with the annotation frame: its (H, W) bool mask and its xywh box."""
    height, width = size_hw
    x, y, r = 20 + (7 * frame + 23 * number) % (width - 40), 20 + (5 * frame) % (height - 40), 10 + 2 * (number % 3)
    yy, xx = np.mgrid[:height, :width]
    mask = (xx - x) ** 2 + (yy - y) ** 2 <= r * r
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask, [float(cols[0]), float(rows[0]), float(cols[-1] - cols[0] + 1), float(rows[-1] - rows[0] + 1)]


def write_clip(path: Path, num_frames: int, objects: int, size_hw: tuple[int, int] = SIZE_HW, seed: int = 7) -> None:
    """An H.264 clip of ``num_frames`` annotation frames (six native ones each) with red, green, blue discs on grey noise."""
    colours = [(220, 40, 40), (40, 200, 60), (50, 70, 230)]
    ground = np.random.default_rng(seed).integers(90, 150, (*size_hw, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12", "preset": "ultrafast", "g": "30"})
        stream.height, stream.width, stream.pix_fmt = *size_hw, "yuv420p"
        for native in range(num_frames * STRIDE):
            image = ground.copy()
            for number in range(objects):
                image[disc(native // STRIDE, number, size_hw)[0]] = colours[number % 3]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))


def query_set(title: str, boxes: dict[int, list[float]], size_hw: tuple[int, int] = SIZE_HW) -> dict:
    """One object as the release writes it; ``boxes[frame]`` is xywh."""
    return {
        "is_valid": True,
        "errors": [],
        "warnings": [],
        "object_title": title,
        "lt_track": [
            {
                "frame_number": frame,
                "exported_clip_frame_number": 6 * frame,
                "video_frame_number": 6 * frame,
                "x": box[0],
                "y": box[1],
                "width": box[2],
                "height": box[3],
                "rotation": 0,
                "original_width": size_hw[1],
                "original_height": size_hw[0],
            }
            for frame, box in boxes.items()
        ],
    }


def clip_entry(uid: str, query_sets: dict[str, dict]) -> dict:
    """One clip as the release writes it."""
    return {"clip_uid": uid, "clip_fps": 30.0, "annotation_complete": True, "annotations": [{"query_sets": query_sets, "warnings": []}]}


def write_tracks(path: Path, clips: list[dict]) -> None:
    """The annotation file around the clips."""
    videos = [{"video_uid": f"v{i}", "split": "train", "clips": [clip]} for i, clip in enumerate(clips)]
    path.write_text(json.dumps({"version": "1.0", "date": "2023", "description": "", "manifest": "", "videos": videos}))


def write_release(folder: Path, *, clips: int = 3, objects: int = 2, num_frames: int = 20, gap: int = 4) -> None:
    """``folder/egotracks.json`` and ``folder/clips/clip-<i>.mp4``: each object has two appearances, ``gap`` frames apart."""
    os.makedirs(folder / "clips", exist_ok=True)
    entries = []
    for i in range(clips):
        uid = f"clip-{i}"
        write_clip(folder / "clips" / f"{uid}.mp4", num_frames, objects)
        half = (num_frames - gap) // 2
        frames = [*range(half), *range(half + gap, num_frames)]
        sets = {str(n + 1): query_set(f"disc {n}", {f: disc(f, n)[1] for f in frames}) for n in range(objects)}
        entries.append(clip_entry(uid, sets))
    write_tracks(folder / "egotracks.json", entries)
