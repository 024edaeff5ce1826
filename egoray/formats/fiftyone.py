"""FiftyOne: its COCO import, ``labels.json`` over the dataset's own pictures, with the clip and the object as attributes.

FiftyOne's own serialized form is tied to its version and holds what only it can write; the COCO form is what it documents
for others. ``load.py`` beside it is all that one needs to look at the masks, grouped by clip.
"""

from __future__ import annotations

from collections.abc import Sequence

from egoray.core.storage import Folder
from egoray.formats import coco
from egoray.formats.exchange import MaskVideo, by_clip

_LOAD = '''"""Open the masks in FiftyOne: python load.py DATASET (the folder that holds JPEGImages)."""

import os
import sys

import fiftyone as fo

here = os.path.dirname(os.path.abspath(__file__))
dataset = fo.Dataset.from_dir(
    dataset_type=fo.types.COCODetectionDataset,
    data_path=os.path.abspath(sys.argv[1]),
    labels_path=os.path.join(here, "labels.json"),
    label_types=["segmentations"],
    extra_attrs=["clip", "track_id", "expressions"],
)
for sample in dataset.iter_samples(autosave=True, progress=True):
    folder, name = os.path.split(sample.filepath)
    sample["clip"], sample["frame"] = os.path.basename(folder), os.path.splitext(name)[0]
dataset.add_dynamic_sample_fields()
fo.launch_app(dataset.group_by("clip", order_by="frame")).wait()
'''


def write(out: Folder, videos: Sequence[MaskVideo]) -> dict[str, int]:
    """Write ``labels.json`` and ``load.py``; how many images and annotations it has."""
    videos = by_clip(videos)
    document = coco.as_json(videos)
    said = {(v.video_id, o.object_id): [e.text for e in v.expressions if e.object_id == o.object_id] for v in videos for o in v.objects}
    for annotation in document["annotations"]:
        clip = videos[annotation["video_id"] - 1].video_id
        annotation |= {"clip": clip, "expressions": said[clip, annotation["track_id"]]}
    out.write_json(coco.FILE, document)
    out.write_bytes("load.py", _LOAD.encode())
    return {key: len(document[key]) for key in ("images", "annotations")}


read = coco.read
