"""Exocentric sets as released, read into questions; answers written and read back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.png import read_png
from egoray.formats.rvos import ANNOTATORS, benchmark_of, judged_frames, objects_of, read, read_gold
from egoray.formats.rvos_predictions import is_answered, missing_answer, read_prediction, write_prediction
from support.exocentric import (
    FRAMES,
    SIZE,
    disk,
    rle,
    write_davis,
    write_json,
    write_mevis,
    write_picture,
    write_reason,
    write_revos,
    write_ytvos,
)
from support.predictions import write_dataset

WRITERS = {"mevis": write_mevis, "revos": write_revos, "reasonvos": write_reason, "ref-davis17": write_davis}


def write_youtube(root):
    write_ytvos(root, "train", (2,), sentences=2)
    entry = {"frames": FRAMES, "expressions": {"0": {"exp": "a cat"}}}  # valid says nothing of objects
    write_json(root / "meta_expressions/valid/meta_expressions.json", {"videos": {"v": entry}})
    return str(root)


@pytest.mark.parametrize(("name", "write"), [*WRITERS.items(), ("ref-youtube-vos", write_youtube)])
def test_a_set_is_known_by_its_files_and_its_images_are_found(tmp_path, name, write):
    root = write(tmp_path)
    assert benchmark_of(root) == name
    questions = read(root)
    assert {q.benchmark for q in questions} == {name}
    for question in questions:
        assert len(question.images) == len(question.item.frame_names) == len(FRAMES)
        assert all(Path(image).is_file() for image in question.images)


def test_egomask_s_folders_are_none_of_them(tmp_path):
    assert benchmark_of(write_dataset(tmp_path / "benchmark")) is None
    write_json(tmp_path / "train/meta_expressions/train/meta_expressions.json", {"videos": {}})
    write_json(tmp_path / "train/train/mask_dict.json", {})
    assert benchmark_of(str(tmp_path / "train")) is None
    with pytest.raises(FormatError, match="holds none of ref-davis17, mevis"):
        read(str(tmp_path / "nothing"))


def dense(gold):
    return {frame: decode(mask) for frame, mask in gold.items()}


def same(a, b):
    assert a.keys() == b.keys()
    assert all((a[frame] == b[frame]).all() for frame in a)


def test_a_sentence_of_mevis_means_several_objects(tmp_path):
    root = write_mevis(tmp_path)
    question = read(root)[1]
    assert (question.item.object_id, question.item.text, question.item.tier) == ("1,2", "the 1", "valid_u")
    lists = json.loads((tmp_path / "valid_u/mask_dict.json").read_text())
    want = {}
    for frame, *found in zip(FRAMES, lists["0"], lists["1"], strict=True):
        if any(found):
            want[frame] = np.any([coco.decode(mask) for mask in found if mask], 0)
    same(dense(read_gold(root, question)), want)
    assert objects_of(read(root)).keys() == {("vid0", "0"), ("vid0", "1"), ("vid0", "2"), ("vid1", "3"), ("vid1", "4"), ("vid1", "5")}


def test_revos_names_videos_by_paths_and_asks_for_nothing(tmp_path):
    refer, reason, nothing = read(write_revos(tmp_path))
    assert [q.item.kind for q in (refer, reason, nothing)] == ["referring", "reasoning", "hallucination"]
    assert (refer.item.video_id, refer.answer) == ("UVO/all/-fb", "UVO/all/-fb/0")
    assert read_gold(str(tmp_path), nothing) == {}
    document = json.loads((tmp_path / "meta_expressions_valid_.json").read_text())
    write_json(tmp_path / "meta_expressions_train_.json", {"videos": {"JPEGImages/x": document["videos"]["UVO/all/-fb"]}})
    assert read(str(tmp_path), "train")[0].images[0] == f"{tmp_path}/JPEGImages/x/00000.jpg"


def test_reasonvos_is_judged_where_it_is_annotated(tmp_path):
    root = write_reason(tmp_path)
    questions = read(root)
    assert [q.answer for q in questions[:3]] == ["mose_a_0_1/0", "mose_a_0_1/1", "mose_a_0_2/2"]
    assert [q.item.kind for q in questions[:2]] == ["sentence", "phrase"]
    assert judged_frames(root, questions[0]) == tuple(FRAMES)
    assert judged_frames(root, questions[3]) == tuple(FRAMES[:-1])
    picture = np.asarray(Image.open(tmp_path / "Annotations/mose_a_0_1/00000.png")) == 255
    assert (decode(read_gold(root, questions[0])["00000"]) == picture).all()


def test_ref_davis17_has_four_sentences_an_object(tmp_path):
    root = write_davis(tmp_path)
    questions = [q for q in read(root) if q.item.video_id == "clip0"]
    assert [q.item.object_id for q in questions] == ["1"] * 4 + ["2"] * 4
    assert [q.item.kind for q in questions] == [*ANNOTATORS, *ANNOTATORS]
    numbers = {frame: np.asarray(Image.open(tmp_path / f"valid/Annotations/clip0/{frame}.png")) for frame in FRAMES}
    same(dense(read_gold(root, questions[5])), {frame: n == 2 for frame, n in numbers.items() if (n == 2).any()})


def test_a_split_without_masks_can_be_asked_but_has_no_gold(tmp_path):
    (question,) = read(write_youtube(tmp_path), "valid")
    assert (question.item.text, question.targets) == ("a cat", None)
    with pytest.raises(FormatError, match="scored by the set's own server"):
        read_gold(str(tmp_path), question)


def read_all(root):
    return [read_gold(root, question) for question in read(root)]


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "file", "edit", "message"),
    [
        ("mevis", "valid_u/mask_dict.json", lambda d: d.pop("4"), "mask_dict.json: has no masks of 4"),
        ("mevis", "valid_u/mask_dict.json", lambda d: d["4"].pop(), "mask_dict.json, 4: expected a list of 5 masks"),
        ("mevis", "valid_u/mask_dict.json", lambda d: d["4"].__setitem__(2, {"size": SIZE, "counts": "1"}), "4, frame 00002: the runs"),
        (
            "mevis",
            "valid_u/mask_dict.json",
            lambda d: (d["0"].__setitem__(2, rle(np.eye(3))), d["1"].__setitem__(2, rle(np.eye(4)))),
            "vid0/1, frame 00002: masks of",
        ),
        ("mevis", "valid_u/meta_expressions.json", lambda d: d["videos"]["vid1"].pop("frames"), "video vid1: expected a list of frame"),
        ("mevis", "valid_u/meta_expressions.json", lambda d: d["videos"].update({"../x": {}}), "cannot be the name"),
        (
            "mevis",
            "valid_u/meta_expressions.json",
            lambda d: d["videos"]["vid1"]["expressions"]["2"].pop("exp"),
            "expression 2: has no text",
        ),
        (
            "reasonvos",
            "meta_expressions.json",
            lambda d: d["videos"]["a_0"]["expressions"][1].pop("obj_id"),
            "expression 1: expected the id",
        ),
        ("reasonvos", "meta_expressions.json", lambda d: d["videos"]["a_0"].update(expressions={}), "expected a list in 'expressions'"),
        ("reasonvos", "meta_expressions.json", lambda d: d["videos"]["a_0"].update(source="x/.."), "cannot be the name"),
        (
            "ref-davis17",
            "meta_expressions/valid/meta_expressions.json",
            lambda d: d["videos"]["clip1"]["expressions"].pop("7"),
            "has 7 expr",
        ),
        (
            "ref-davis17",
            "meta_expressions/valid/meta_expressions.json",
            lambda d: d["videos"]["clip1"]["expressions"]["3"].update(obj_id="dog"),
            "obj_id dog is not a number",
        ),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, file, edit, message):
    root = WRITERS[name](tmp_path)
    change(tmp_path / file, edit)
    with pytest.raises(FormatError, match=message) as caught:
        read_all(root)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mevis", "valid_u/mask_dict.json"),
        ("revos", "mask_dict.json"),
        ("reasonvos", "Annotations/mose_a_0_1"),
        ("ref-davis17", "valid/Annotations/clip0/00001.png"),
    ],
)
def test_a_missing_file_is_named(tmp_path, name, file):
    root, path = WRITERS[name](tmp_path), tmp_path / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FormatError, match=f"{path}: no"):
        read_all(root)


@pytest.mark.parametrize("name", WRITERS)
def test_an_answer_is_read_as_it_was_written(tmp_path, name):
    root, rng = WRITERS[name](tmp_path / "set"), np.random.default_rng(0)
    out = str(tmp_path / "out")
    question = read(root)[0]
    masks = {frame: encode(disk(rng)) for frame in FRAMES[1:4]}
    assert missing_answer(out, question) == f"{out}/{question.answer}"
    assert (is_answered(out, question), read_prediction(out, root, question)) == (False, {})
    write_prediction(out, question, masks)
    assert (is_answered(out, question), missing_answer(out, question)) == (True, None)
    assert read_prediction(out, root, question) == masks
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / question.answer).iterdir())]
    assert [set(np.unique(p)) for p in pictures] == [{0}, {0, 255}, {0, 255}, {0, 255}, {0}]
    write_prediction(out, question, {})
    assert read_prediction(out, root, question) == {}
    with pytest.raises(ValueError, match="has no frame 7"):
        write_prediction(out, question, {"7": masks["00001"]})


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_pngs_of_every_kind_hold_numbers(tmp_path, mode):
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) % (2 if mode == "1" else 12)
    picture = Image.fromarray(numbers * 255).convert("1") if mode == "1" else Image.fromarray(numbers)
    if mode == "P":
        write_picture(tmp_path / "x.png", numbers, palette=True)
    else:
        picture.convert(mode).save(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").mode == mode
    assert (read_png(Folder(tmp_path), "x.png") == numbers).all()


def test_a_png_of_16_bits_is_no_mask(tmp_path):
    Image.fromarray(np.full((3, 4), 300, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(FormatError, match=r"x\.png: a PNG of mode I;16"):
        read_png(Folder(tmp_path), "x.png")
