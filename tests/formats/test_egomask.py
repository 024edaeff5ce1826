import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from egoray.core.masks import encode
from egoray.errors import FormatError
from egoray.formats.egomask import (
    BenchmarkObject,
    BenchmarkVideo,
    clip_of,
    frame_name,
    images_dir,
    read_detection,
    read_gold,
    read_items,
    read_prediction,
    write_benchmark,
    write_prediction,
)
from egoray.schema import Expression, GroundingItem, MaskRLE

HW = (6, 8)
EMPTY = encode(np.zeros(HW, bool))


def mask(seed):
    dense = np.random.default_rng(seed).random(HW) < 0.4
    dense[0, 0] = True
    return encode(dense)


def as_json(rle):
    return {"size": list(rle.size), "counts": rle.counts}


def sentence(video_id, object_id, text):
    return Expression(
        expression_id=f"id of {text}", video_id=video_id, object_id=object_id, text=text, kind="short", source="offline", model="m"
    )


def benchmark():
    """A long clip with two objects, a medium slice of it, and a short clip whose name holds "--" too."""
    cup = {frame_name(f): mask(f) for f in (0, 10, 20)}
    long = BenchmarkVideo(
        video_id="clip",
        tier="long",
        frame_names=tuple(frame_name(f) for f in range(0, 30, 5)),
        objects=(BenchmarkObject(object_id="1", category="cup", masks=cup), BenchmarkObject(object_id="2", category="jar", masks={})),
        expressions=(sentence("clip", "1", "the cup"), sentence("clip", "2", "the jar"), sentence("clip", "1", "the blue cup")),
    )
    medium = BenchmarkVideo(
        video_id="clip--1",
        tier="medium",
        frame_names=tuple(frame_name(f) for f in (5, 10, 15)),
        objects=(BenchmarkObject(object_id="1", category="cup", masks={"00010": cup["00010"], "00015": EMPTY}),),
        expressions=(sentence("clip--1", "1", "the cup"),),
    )
    short = BenchmarkVideo(
        video_id="film--7-2",
        tier="short",
        frame_names=("img0000000007", "img0000000008"),
        objects=(BenchmarkObject(object_id="1", category="fork", masks={"img0000000008": mask(3)}),),
        expressions=(sentence("film--7-2", "1", "a fork"),),
    )
    return [long, medium, short]


@pytest.fixture
def root(tmp_path):
    write_benchmark(tmp_path, benchmark())
    return tmp_path


def change(path: Path, edit):
    """Edit the JSON file's value in place."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def only(root, split):
    [item] = read_items(root, split)
    return item


def test_frames_are_named_in_five_digits():
    assert [frame_name(f) for f in (0, 5, 123456)] == ["00000", "00005", "123456"]


def test_the_folder_has_the_released_layout(root):
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    subsets = {f"subset/{tier}/{name}.json" for tier in ("short", "medium", "long") for name in ("meta", "meta_expressions")}
    masks = {f"annotations/{name}.json" for name in ("clip/1", "clip/2", "film--7-2/1")}
    assert files == subsets | masks | {"meta.json", "meta_expressions.json"}


def test_the_meta_files_hold_the_released_fields(root):
    meta = json.loads((root / "meta.json").read_text())["videos"]
    assert meta["clip--1"] == {"objects": {"1": {"category": "cup", "frames": ["00010"]}}, "subset": "medium"}
    assert meta["clip"]["objects"]["2"] == {"category": "jar", "frames": []}
    sentences = json.loads((root / "subset/long/meta_expressions.json").read_text())["videos"]["clip"]
    assert sentences["frames"] == ["00000", "00005", "00010", "00015", "00020", "00025"]
    assert list(sentences["expressions"]) == ["0", "1", "2"]
    first = sentences["expressions"]["0"]
    assert (first["exp"], first["obj_id"], first["expression_id"]) == ("the cup", "1", "id of the cup")


def test_gold_files_hold_neither_null_nor_empty_masks(root):
    for path in (root / "annotations").rglob("*.json"):
        for value in json.loads(path.read_text()).values():
            assert coco.area(value) > 0
    assert json.loads((root / "annotations/clip/2.json").read_text()) == {}


def test_the_same_videos_give_the_same_bytes(root, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    write_benchmark(again, benchmark())
    for path in root.rglob("*.json"):
        assert path.read_bytes() == (again / path.relative_to(root)).read_bytes()


def test_items_and_gold_read_back(root):
    items = read_items(root, "long")
    assert [(i.video_id, i.expression_id, i.object_id, i.text, i.tier) for i in items] == [
        ("clip", "0", "1", "the cup", "long"),
        ("clip", "1", "2", "the jar", "long"),
        ("clip", "2", "1", "the blue cup", "long"),
    ]
    assert read_gold(root, items[0]) == {frame_name(f): mask(f) for f in (0, 10, 20)}
    assert read_gold(root, items[1]) == {}


def test_the_full_split_has_every_item_in_its_own_tier(root):
    items = {(i.video_id, i.expression_id): i.tier for i in read_items(root, "full")}
    assert items == {("clip", n): "long" for n in "012"} | {("clip--1", "0"): "medium", ("film--7-2", "0"): "short"}
    split = [item for tier in ("short", "medium", "long") for item in read_items(root, tier)]
    assert sorted(split, key=repr) == sorted(read_items(root, "full"), key=repr)


def test_the_full_split_takes_the_tier_from_meta_json_where_only_that_says_it(root):
    change(root / "meta_expressions.json", lambda v: [e.pop("subset") for e in v["videos"].values()])
    assert {item.tier for item in read_items(root, "full")} == {"short", "medium", "long"}


def test_a_split_that_does_not_exist_is_refused(root):
    with pytest.raises(ValueError, match="no such split"):
        read_items(root, "tiny")


def test_mid_is_another_name_of_medium(root):
    assert read_items(root, "mid") == read_items(root, "medium")
    assert only(root, "mid").tier == "medium"


def test_only_medium_names_are_cut_at_the_double_dash(root):
    assert [clip_of("a--b--c", tier) for tier in ("medium", "short", "long")] == ["a", "a--b--c", "a--b--c"]
    assert list(read_gold(root, only(root, "medium"))) == ["00010"]
    assert list(read_gold(root, only(root, "short"))) == ["img0000000008"]


def test_gold_outside_a_slice_is_left_out(root):
    assert set(json.loads((root / "annotations/clip/1.json").read_text())) == {"00000", "00010", "00020"}
    assert set(read_gold(root, only(root, "medium"))) == {"00010"}


def test_a_medium_subset_without_meta_json_reads(root):
    (root / "subset/medium/meta.json").unlink()
    (root / "subset/long/meta.json").unlink()
    assert only(root, "medium").video_id == "clip--1"


@pytest.mark.parametrize("value", [1, "1", [1], ["1"]])
def test_object_ids_are_read_in_all_spellings(root, value):
    change(root / "subset/short/meta_expressions.json", lambda v: v["videos"]["film--7-2"]["expressions"]["0"].update(obj_id=value))
    assert only(root, "short").object_id == "1"


@pytest.mark.parametrize("value", [None, [], [1, 2], 1.5, True, "../1", ""])
def test_an_object_id_that_is_none_is_named(root, value):
    change(root / "subset/short/meta_expressions.json", lambda v: v["videos"]["film--7-2"]["expressions"]["0"].update(obj_id=value))
    with pytest.raises(FormatError, match="video film--7-2, expression 0"):
        read_items(root, "short")


def test_frame_names_are_read_with_and_without_extension(root):
    change(root / "subset/medium/meta_expressions.json", lambda v: v["videos"]["clip--1"].update(frames=["00005.jpg", "00010.jpg"]))
    change(root / "annotations/clip/1.json", lambda v: [v.update({f"{name}.jpg": v.pop(name)}) for name in list(v)])
    item = only(root, "medium")
    assert item.frame_names == ("00005", "00010")
    assert read_gold(root, item) == {"00010": mask(10)}


def test_null_and_empty_masks_are_read_as_absent(root):
    change(root / "annotations/clip/1.json", lambda v: v.update({"00000": None, "00005": as_json(EMPTY)}))
    assert list(read_gold(root, read_items(root, "long")[0])) == ["00010", "00020"]


def test_uncompressed_runs_are_read(root):
    change(root / "annotations/film--7-2/1.json", lambda v: v.update(img0000000007={"size": [6, 8], "counts": [6, 12, 30]}))
    dense = np.zeros(HW, bool)
    dense[:, 1:3] = True
    assert read_gold(root, only(root, "short"))["img0000000007"] == encode(dense)


def test_expressions_are_in_the_order_of_their_numbers(tmp_path):
    [video, *_] = benchmark()
    texts = [f"sentence {n}" for n in range(12)]
    video = BenchmarkVideo(
        video_id="clip",
        tier="long",
        frame_names=video.frame_names,
        objects=video.objects,
        expressions=tuple(sentence("clip", "1", t) for t in texts),
    )
    write_benchmark(tmp_path, [video])
    assert [(i.expression_id, i.text) for i in read_items(tmp_path, "long")] == [(str(n), t) for n, t in enumerate(texts)]
    assert read_items(tmp_path, "short") == []


MALFORMED = [
    17,
    "text",
    {"size": [6, 8]},
    {"size": [6], "counts": "a"},
    {"size": [6, 8], "counts": [1, 2]},
    {"size": [6, 8], "counts": ""},
    {"size": [6, 8], "counts": "!!"},
    {"size": [6, 8], "counts": "~~~~"},
    {"size": [6, 8], "counts": "µ"},
    {"size": [6, 8], "counts": "P"},
    {"size": [7, 8], "counts": mask(3).counts},
    {"size": [0, 0], "counts": ""},
    {"size": [-6, -8], "counts": mask(3).counts},
]


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_mask_is_named_by_file_and_frame(root, value):
    change(root / "annotations/film--7-2/1.json", lambda v: v.update(img0000000007=value))
    with pytest.raises(FormatError, match=r"annotations/film--7-2/1\.json, frame img0000000007"):
        read_gold(root, only(root, "short"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=8).map(lambda raw: raw.decode("latin-1")) | st.text("0123P`o?Q", max_size=12))
def test_a_mask_that_reads_has_as_many_pixels_as_its_size(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("gold")
    (path / "annotations/v").mkdir(parents=True)
    (path / "annotations/v/1.json").write_text(json.dumps({"f": {"size": [3, 4], "counts": counts}}))
    item = GroundingItem(video_id="v", expression_id="0", object_id="1", text="", frame_names=("f",), tier="long")
    try:
        gold = read_gold(path, item)
    except FormatError:
        return
    for rle in gold.values():
        assert sum(runs(rle.counts)) == 12
        assert coco.decode(as_json(rle)).sum() == sum(runs(rle.counts)[1::2])


def runs(counts):
    """The runs of COCO's compressed code, by the definition: signed groups of 5 bits, from the third run on less the one two before."""
    numbers, digits = [], []
    for letter in counts:
        digits.append(ord(letter) - 48)
        if digits[-1] < 32:
            size = 5 * len(digits)
            raw = sum((d % 32) * 32**i for i, d in enumerate(digits))
            raw -= 2**size if digits[-1] >= 16 else 0
            numbers.append(raw + (numbers[-2] if len(numbers) > 2 else 0))
            digits = []
    return numbers


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_every_mask_that_pycocotools_writes_reads_back(tmp_path_factory, seed, height, width, share):
    rle = encode(np.random.default_rng(seed).random((height, width)) < share)
    item = GroundingItem(video_id="v", expression_id="0", object_id="1", text="", frame_names=("f",), tier="long")
    path = tmp_path_factory.mktemp("predicted")
    write_prediction(path, "long", item, {"f": rle})
    assert read_prediction(path, "long", item) == ({"f": rle} if coco.area(as_json(rle)) else {})


@pytest.mark.parametrize(
    "text",
    ["not json", "[]", "{}", '{"videos": []}', '{"videos": {"v": 3}}', '{"videos": {"v": {"frames": ["../../x"], "expressions": {}}}}'],
)
def test_a_malformed_meta_file_is_named(root, text):
    (root / "subset/long/meta_expressions.json").write_text(text)
    with pytest.raises(FormatError, match=r"subset/long/meta_expressions\.json"):
        read_items(root, "long")


@pytest.mark.parametrize(
    "entry", [{"expressions": {}}, {"frames": [3], "expressions": {}}, {"frames": []}, {"frames": [], "expressions": {"0": {}}}]
)
def test_a_malformed_video_is_named(root, entry):
    (root / "subset/long/meta_expressions.json").write_text(json.dumps({"videos": {"v": entry}}))
    with pytest.raises(FormatError, match=r"meta_expressions\.json, video v"):
        read_items(root, "long")


def test_an_unknown_subset_is_named(root):
    change(root / "meta_expressions.json", lambda v: v["videos"]["clip"].update(subset="full"))
    with pytest.raises(FormatError, match="video clip: is of an unknown subset"):
        read_items(root, "full")


def test_missing_files_are_named(root):
    item = only(root, "short")
    (root / "annotations/film--7-2/1.json").unlink()
    with pytest.raises(FormatError, match=r"annotations/film--7-2/1\.json: not found"):
        read_gold(root, item)
    with pytest.raises(FormatError, match=r"subset/long/meta_expressions\.json: not found"):
        read_items(root / "elsewhere", "long")


def test_a_prediction_lies_where_the_official_evaluator_looks(root, tmp_path):
    item = read_items(root, "long")[1]
    write_prediction(tmp_path / "out", "long", item, {"00005": mask(5), "00010": EMPTY})
    path = tmp_path / "out/long/clip/1/1-2.json"
    assert json.loads(path.read_text()) == {"00005": as_json(mask(5))}
    assert read_prediction(tmp_path / "out", "long", item) == {"00005": mask(5)}


def test_nothing_found_is_an_empty_file_and_no_file_is_none(root, tmp_path):
    item = only(root, "medium")
    assert read_prediction(tmp_path, "mid", item) is None
    write_prediction(tmp_path, "mid", item, {})
    assert (tmp_path / "medium/clip--1/0/0-1.json").read_text() == "{}\n"
    assert read_prediction(tmp_path, "medium", item) == {}


def test_a_detection_stands_beside_the_masks_and_goes_with_a_new_answer(root, tmp_path):
    item = only(root, "short")
    detection = {"frame_idx": 1, "frame_name": "img0000000008", "labels": ["a fork"], "input_boxes": [1.0, 2.0, 3.0, 4.0]}
    assert read_detection(tmp_path, "short", item) is None
    write_prediction(tmp_path, "short", item, {}, detection)
    assert json.loads((tmp_path / "short/film--7-2/0/0-1_grounding_ret.json").read_text()) == detection
    assert read_detection(tmp_path, "short", item) == detection
    write_prediction(tmp_path, "short", item, {})
    assert read_detection(tmp_path, "short", item) is None


@pytest.mark.parametrize("bad", ["..", ".", "", "a/b", "/etc", "..\\x", "a\0b"])
@pytest.mark.parametrize("key", ["video_id", "expression_id", "object_id"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, key, bad):
    fields = {"video_id": "v", "expression_id": "0", "object_id": "1", "text": "", "frame_names": (), "tier": "long"} | {key: bad}
    item = GroundingItem(**fields)
    for use in (lambda: write_prediction(tmp_path, "long", item, {}), lambda: read_prediction(tmp_path, "long", item)):
        with pytest.raises(FormatError, match="cannot be the name"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_dataset_that_names_a_path_outside_is_refused(root, tmp_path):
    item = GroundingItem(video_id="..--1", expression_id="0", object_id="1", text="", frame_names=(), tier="medium")
    for use in (lambda: read_gold(root, item), lambda: images_dir(str(root), item)):
        with pytest.raises(FormatError, match="cannot be the name"):
            use()


@pytest.mark.parametrize(
    ("video_id", "tier", "there", "expected"),
    [
        ("clip", "long", None, "egotracks/clip"),
        ("clip--1", "medium", None, "egotracks/clip"),
        ("film--7-2", "short", None, "refego/film--7-2"),
        ("film--7-2", "short", "refego/film--7-2", "refego/film--7-2"),
        ("clip", "short", "egotracks/clip", "egotracks/clip"),
        ("film", "long", "refego/film", "refego/film"),
    ],
)
def test_images_lie_under_their_source(tmp_path, video_id, tier, there, expected):
    item = GroundingItem(video_id=video_id, expression_id="0", object_id="1", text="", frame_names=(), tier=tier)
    if there:
        (tmp_path / "JPEGImages" / there).mkdir(parents=True)
    assert images_dir(str(tmp_path), item) == str(tmp_path / "JPEGImages" / expected)


def test_videos_that_contradict_each_other_are_refused(tmp_path):
    long, medium, short = benchmark()

    def remade(video, **fields):
        names = ("video_id", "tier", "frame_names", "objects", "expressions")
        return BenchmarkVideo(**({name: getattr(video, name) for name in names} | fields))

    other = BenchmarkObject(object_id="1", category="cup", masks={"00010": MaskRLE(size=HW, counts=mask(99).counts)})
    for videos, match in (
        ([short, short], "given twice"),
        ([long, remade(medium, objects=(other,))], "another mask for frame 00010"),
        ([remade(short, tier="train")], "train tier"),
        ([remade(short, objects=())], "which is not there"),
        ([remade(short, video_id="renamed")], "which is not there"),
    ):
        with pytest.raises(ValueError, match=match):
            write_benchmark(tmp_path, videos)
    assert not list(tmp_path.iterdir())
