import ast
import json

import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.errors import FormatError
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, read_train, write_train
from egoray.schema import Expression

NAMES = ("00000", "00005", "00010")


def mask(seed):
    dense = np.random.default_rng(seed).random((6, 8)) < 0.4
    dense[0, 0] = True
    return encode(dense)


def video(video_id, num_objects=2, num_expressions=2):
    return BenchmarkVideo(
        video_id=video_id,
        tier="train",
        frame_names=NAMES,
        objects=tuple(
            BenchmarkObject(object_id=str(n), category="cup", masks={name: mask(n) for name in NAMES[: n % 3]})
            for n in range(1, num_objects + 1)
        ),
        expressions=tuple(
            Expression(
                expression_id=f"{video_id} {n}",
                video_id=video_id,
                object_id="1",
                text=f"cup {n}",
                kind="long",
                source="offline",
                prompt_version="2",
            )
            for n in range(num_expressions)
        ),
    )


VIDEOS = [video("a", 12, 12), video("b")]


@pytest.fixture
def root(tmp_path):
    write_train(tmp_path, VIDEOS)
    return tmp_path


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_what_is_written_reads_back(root):
    assert read_train(root) == VIDEOS


def test_the_training_set_inside_a_data_set_is_found(tmp_path):
    write_train(tmp_path / "egomask-train", VIDEOS)
    assert read_train(tmp_path) == VIDEOS


def test_the_same_videos_give_the_same_bytes(root, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    write_train(again, VIDEOS)
    assert all(path.read_bytes() == (again / path.relative_to(root)).read_bytes() for path in root.rglob("*.json"))


def test_the_mask_lists_are_aligned_with_the_sorted_frames(tmp_path):
    given = video("b")
    unsorted = BenchmarkVideo(
        video_id="b", tier="train", frame_names=("00010", "00000", "00005"), objects=given.objects, expressions=given.expressions
    )
    write_train(tmp_path, [unsorted])
    lists = json.loads((tmp_path / "train/mask_dict.json").read_text())
    assert {ast.literal_eval(key) for key in lists} == {("b", "1"), ("b", "2")}
    one = {"size": [6, 8], "counts": mask(1).counts}
    assert lists["('b', '1')"] == [one, None, None]
    assert json.loads((tmp_path / "train/rle_save/b/1.json").read_text()) == {"00000": one, "00005": None, "00010": None}
    objects = json.loads((tmp_path / "train/meta.json").read_text())["videos"]["b"]["objects"]
    assert objects == {str(n): {"category": "cup", "frames": list(NAMES[:n])} for n in (1, 2)}
    assert read_train(tmp_path) == [given]


@pytest.mark.parametrize("key", ["('b', 1)", '("b", "1")', "('b','1')", "['b', 1]"])
def test_the_keys_of_the_masks_are_read_in_all_spellings(root, key):
    change(root / "train/mask_dict.json", lambda v: v.update({key: v.pop("('b', '1')")}))
    assert read_train(root) == VIDEOS


@pytest.mark.parametrize("key", ["b", "('b',)", "('b', 1, 2)", "('b', None)", "__import__('os')", "(" * 300, "17"])
def test_a_key_that_is_no_pair_is_named(root, key):
    change(root / "train/mask_dict.json", lambda v: v.update({key: []}))
    with pytest.raises(FormatError, match=r"mask_dict\.json"):
        read_train(root)


def test_released_files_without_ids_and_with_extensions_read(root):
    path = root / "meta_expressions/train/meta_expressions.json"
    change(path, lambda v: v["videos"]["b"].update(frames=[f"{n}.jpg" for n in NAMES], expressions={"0": {"exp": "cup", "obj_id": 1}}))
    (read,) = read_train(root)[1].expressions
    assert (read.object_id, read.text, read.source) == ("1", "cup", "egomask")
    assert read.expression_id == read_train(root)[1].expressions[0].expression_id
    assert read_train(root)[1].frame_names == NAMES


def test_a_mask_list_of_another_length_is_named(root):
    change(root / "train/mask_dict.json", lambda v: v["('b', '2')"].pop())
    with pytest.raises(FormatError, match=r"mask_dict\.json: \(b, 2\): expected a list of 3 masks"):
        read_train(root)


def test_a_malformed_mask_is_named_by_object_and_frame(root):
    change(root / "train/mask_dict.json", lambda v: v["('b', '2')"].__setitem__(1, {"size": [6, 8], "counts": "~"}))
    with pytest.raises(FormatError, match=r"mask_dict\.json: \(b, 2\), frame 00005"):
        read_train(root)


def test_an_expression_about_an_object_without_masks_is_named(root):
    change(root / "train/mask_dict.json", lambda v: v.pop("('b', '1')"))
    with pytest.raises(FormatError, match=r"has no masks of \(b, 1\)"):
        read_train(root)


@pytest.mark.parametrize("name", ["train/mask_dict.json", "train/meta.json", "meta_expressions/train/meta_expressions.json"])
def test_a_missing_or_malformed_file_is_named(root, name):
    for spoil in (lambda path: path.write_text("[]"), lambda path: path.unlink()):
        spoil(root / name)
        with pytest.raises(FormatError, match=name):
            read_train(root)
