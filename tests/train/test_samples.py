"""Training clips from the released layouts: the same type, the masks as stored, absences empty."""

import cv2
import numpy as np
import pytest

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, write_train
from egoray.formats.rvos import read, read_gold
from egoray.schema import Expression
from egoray.train.samples import read_clips
from support.exocentric import write_davis, write_mevis, write_revos, write_ytvos


@pytest.fixture
def egomask(tmp_path):
    """Two objects of a clip of four frames; the second shows nowhere, the first in frames 1 and 3."""
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:20] = True
    names = ("00000", "00005", "00010", "00015")
    sentence = {"video_id": "v", "kind": "short", "source": "test"}
    write_train(
        tmp_path,
        [
            BenchmarkVideo(
                video_id="v",
                tier="train",
                frame_names=names,
                objects=(
                    BenchmarkObject(object_id="1", category="mug", masks={names[1]: encode(mask), names[3]: encode(mask)}),
                    BenchmarkObject(object_id="2", category="pan", masks={}),
                ),
                expressions=(
                    Expression(expression_id="a", object_id="1", text="the mug", **sentence),
                    Expression(expression_id="b", object_id="1", text="what one drinks from", **sentence),
                    Expression(expression_id="c", object_id="2", text="the pan", **sentence),
                ),
            )
        ],
    )
    for k, name in enumerate(names):
        image = np.full((20, 30, 3), 10 * k, np.uint8)
        Folder(tmp_path / "train/JPEGImages/v").write_bytes(f"{name}.jpg", cv2.imencode(".jpg", image)[1].tobytes())
    return tmp_path, mask


def test_egomask_comes_by_object_and_one_without_masks_is_left_out(egomask):
    root, mask = egomask
    (clip,) = read_clips(str(root))
    assert clip.name == "egomask-train/v/1"
    assert [s.text for s in clip.sentences] == ["the mug", "what one drinks from"]
    assert clip.present(0).tolist() == [False, True, False, True]
    assert np.array_equal(clip.mask(1, 3, (20, 30)), mask)
    assert not clip.mask(1, 0, (20, 30)).any()
    assert abs(int(clip.image(2).mean()) - 20) <= 1


def test_a_dataset_that_holds_the_training_set_is_taken_too(egomask):
    root, _ = egomask
    inside = root / "whole" / "egomask-train"
    inside.parent.mkdir()
    for name in ("train", "meta_expressions"):
        (inside / name).parent.mkdir(exist_ok=True)
        (root / name).rename(inside / name)
    assert len(read_clips(str(inside.parent))) == len(read_clips(str(inside))) == 1


def test_a_missing_frame_and_a_mask_of_another_size_are_named(egomask):
    root, _ = egomask
    (clip,) = read_clips(str(root))
    (root / "train/JPEGImages/v/00005.jpg").unlink()
    with pytest.raises(FormatError, match=r"00005.jpg: no such image"):
        clip.image(1)
    with pytest.raises(FormatError, match=r"egomask-train/v/1, frame 00005: the mask is 20x30, the image 40x60"):
        clip.mask(0, 1, (40, 60))


def train_split_of_revos(root):
    write_revos(root)
    return (root / "meta_expressions_valid_.json").rename(root / "meta_expressions_train_.json").parent


@pytest.mark.parametrize(
    ("source", "write"),
    [
        ("mevis", lambda root: write_mevis(root, split="train")),
        ("revos", lambda root: train_split_of_revos(root)),
        ("ref-youtube-vos", lambda root: write_ytvos(root, "train", (1, 2), sentences=2)),
        ("ref-davis17", lambda root: write_davis(root) and write_ytvos(root, "train", (2, 1), seed=3)),
    ],
)
def test_an_exocentric_set_comes_by_video_with_the_masks_that_its_evaluator_sees(tmp_path, source, write):
    root = str(write(tmp_path))
    clips = read_clips(root)
    assert {clip.source for clip in clips} == {source}
    questions = [q for q in read(root, "train") if q.targets is not None]
    assert sum(len(clip.sentences) for clip in clips) == len(questions)
    by_video = {clip.video_id: clip for clip in clips}
    for question in questions:
        clip = by_video[question.item.video_id]
        number = [s.text for s in clip.sentences].index(question.item.text)
        gold = read_gold(root, question)
        for frame, name in enumerate(clip.frame_names):
            size = clip.image(frame).shape[:2]
            assert np.array_equal(clip.mask(number, frame, size), decode(gold[name]) if name in gold else np.zeros(size, bool))
        assert clip.present(number).tolist() == [name in gold for name in clip.frame_names]
