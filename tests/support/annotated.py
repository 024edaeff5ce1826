"""A finished annotation folder over small clips: what the stages after `annotate` read."""

from pathlib import Path

from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS, masklet_rows, write_objects, write_videos
from egoray.schema import Masklet, ObjectTrack, Trajectory, VideoInfo
from support.release import SIZE_HW, STRIDE, disc, write_clip

NUM_FRAMES = 23


def appearances(number: int) -> list[tuple[int, int]]:
    """Half-open annotation frames of the disc's two appearances; the third disc is never on a frame divisible by five."""
    return [(11, 14), (16, 19)] if number == 2 else [(0, 9), (13 + number, NUM_FRAMES)]


def masklet(video_id: str, number: int, keep: float = 1.0) -> Masklet:
    """Exact masks of disc ``number`` on its frames; ``keep`` < 1 cuts each to its upper rows."""
    masks = {}
    for start, stop in appearances(number):
        for frame in range(start, stop):
            mask, (_, y, _, height) = disc(frame, number)
            mask[int(y + keep * height) :] = False
            masks[frame] = encode(mask)
    return Masklet(video_id=video_id, object_id=str(number + 1), masks=masks, scores=dict.fromkeys(masks, 0.5))


def track(video_id: str, number: int, title: str) -> tuple[ObjectTrack, list[Trajectory]]:
    """Disc ``number`` with its exact boxes, and its appearances."""
    object_id = str(number + 1)
    boxes = {}
    for start, stop in appearances(number):
        for frame in range(start, stop):
            x, y, width, height = disc(frame, number)[1]
            boxes[frame] = (x, y, x + width, y + height)
    trajectories = [
        Trajectory(video_id=video_id, object_id=object_id, start=start, stop=stop, prompt_frame=start, prompt_box=boxes[start])
        for start, stop in appearances(number)
    ]
    return ObjectTrack(video_id=video_id, object_id=object_id, title=title, boxes=boxes, size_hw=SIZE_HW), trajectories


def write_annotated(folder: Path, *, clips: int = 2, titles: tuple[str, ...] = ("red cup", "green lid"), keep: float = 1.0) -> str:
    """``folder/clips/clip-<i>.mp4`` and ``folder/work``, an annotation folder with one disc a title; the path of the latter."""
    (folder / "clips").mkdir(parents=True)
    work = Folder(str(folder / "work"))
    videos, objects = [], []
    for index in range(clips):
        video_id = f"clip-{index}"
        path = folder / "clips" / f"{video_id}.mp4"
        write_clip(path, NUM_FRAMES, len(titles), seed=7 + index)
        videos.append(
            VideoInfo(
                video_id=video_id,
                uri=str(path),
                num_frames=NUM_FRAMES * STRIDE,
                fps=30.0,
                height_px=SIZE_HW[0],
                width_px=SIZE_HW[1],
                source="test",
                stride=STRIDE,
            )
        )
        rows = []
        for number, title in enumerate(titles):
            objects.append(track(video_id, number, title))
            rows += masklet_rows(masklet(video_id, number, keep), objects[-1][0].boxes)
        (work / "masklets").write_rows(f"{video_id}.parquet", rows, MASKLETS)
    write_videos(work, videos)
    write_objects(work, objects)
    work.write_json("summary.json", {"expected": clips, "done": clips, "failed": 0, "skipped": 0, "seconds": 12.5, "frames_per_s": 31.4})
    return work.uri
