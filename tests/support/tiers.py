"""An annotation folder whose clips, folders of small pictures, fill every tier: a dataset in the released layout in a second."""

from pathlib import Path

import cv2
import numpy as np

from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS, masklet_rows, write_expressions, write_objects, write_videos
from egoray.schema import Expression, Masklet, ObjectTrack, Trajectory, VideoInfo
from support.release import disc

SIZE_HW = (48, 64)
REFEGO = "film--41-20"
CLIPS = {"long-a": 1000, "long-b": 1000, "mid-c": 500, REFEGO: 20}
"""Annotation frames: two clips of 200 s, one of 100 s, and one of RefEgo's of 10 s at its 2 fps."""


def seen(frame: int, number: int) -> bool:
    """Whether the object shows: 40 frames in every 100, the second one 10 frames later."""
    return (frame - 10 * number) % 100 < 40


def write_tiers(folder: Path) -> tuple[str, str]:
    """``folder/work`` and ``folder/clips``, two objects a clip with two sentences each; the paths of both."""
    work = Folder(str(folder / "work"))
    videos, objects = [], []
    for video_id, num_frames in CLIPS.items():
        refego = video_id == REFEGO
        path = folder / "clips" / video_id
        path.mkdir(parents=True)
        shade = np.full((*SIZE_HW, 3), 30 + 40 * len(videos), np.uint8)
        data = cv2.imencode(".jpg", shade)[1].tobytes()
        for frame in range(num_frames):
            (path / (f"img{41 + frame:010d}.jpg" if refego else f"{frame:05d}.jpg")).write_bytes(data)
        info = {"num_frames": num_frames, "fps": 2.0 if refego else 5.0, "height_px": SIZE_HW[0], "width_px": SIZE_HW[1]}
        videos.append(VideoInfo(video_id=video_id, uri=str(path), source="refego" if refego else "egotracks", **info))
        rows = []
        for number, title in enumerate(("red cup", "green lid")):
            frames = [frame for frame in range(num_frames) if seen(frame, number)]
            drawn = {frame: disc(frame, number, SIZE_HW) for frame in frames}
            boxes = {f: (x, y, x + w, y + h) for f, (_, (x, y, w, h)) in drawn.items()}
            ids = {"video_id": video_id, "object_id": str(number + 1)}
            masks = {f: encode(mask) for f, (mask, _) in drawn.items()}
            rows += masklet_rows(Masklet(**ids, masks=masks, scores=dict.fromkeys(masks, 0.5)), boxes)
            first = Trajectory(**ids, start=frames[0], stop=frames[0] + 1, prompt_frame=frames[0], prompt_box=boxes[frames[0]])
            objects.append((ObjectTrack(**ids, title=title, boxes=boxes, size_hw=SIZE_HW), [first]))
            said = [
                Expression(expression_id=f"{video_id}-{number}-{kind}", **ids, text=f"the {kind} {title}", kind=kind, source="test")
                for kind in ("short", "long")
            ]
            write_expressions(work / "expressions", f"{video_id}-{number}", said)
        (work / "masklets").write_rows(f"{video_id}.parquet", rows, MASKLETS)
    write_videos(work, videos)
    write_objects(work, objects)
    return work.uri, str(folder / "clips")
