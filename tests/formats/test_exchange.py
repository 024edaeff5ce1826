"""Each format of another tool: written, read by that tool's own package or by a decoder written here, and read back."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rles
from pycocotools.coco import COCO

from egoray.core.masks import decode, encode
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats import coco, cvat, davis, fiftyone, huggingface, label_studio, sav, ytvis
from egoray.formats.egomask import BenchmarkObject
from egoray.formats.exchange import MaskVideo
from egoray.schema import Expression
from support.mutations import mutate

HW = (9, 13)
ALL = {"coco": coco, "ytvis": ytvis, "davis": davis, "sav": sav, "huggingface": huggingface, "fiftyone": fiftyone, "cvat": cvat}
ALL["label_studio"] = label_studio


def dense(video: str, object_id: str, frame: str) -> np.ndarray:
    """A mask that its names decide; object 1 lies left of column 6 and object 2 right of it; both touch the edges."""
    rng = np.random.default_rng([len(video), int(object_id), int(frame)])
    mask = rng.random(HW) < 0.4
    mask[:, 6:] &= object_id == "2"
    mask[:, :6] &= object_id == "1"
    mask[0, 0] = object_id == "1"
    mask[-1, -1] = object_id == "2"
    return mask


def video(name: str, frames: int) -> MaskVideo:
    names = tuple(f"{5 * n:05d}" for n in range(frames))
    objects = []
    for object_id, title, step in (("1", "cup <&>", 1), ("2", "jar", 2)):
        seen = names[1::step]
        objects.append(BenchmarkObject(object_id=object_id, category=title, masks={n: encode(dense(name, object_id, n)) for n in seen}))
    said = [
        Expression(expression_id=f"{name}/{n}", video_id=name, object_id=o, text=t, kind="short", source="imported")
        for n, (o, t) in enumerate((("1", 'the "red" cup'), ("1", "the cup, left"), ("2", "das Glas für Öl")))
    ]
    images = tuple(f"JPEGImages/egotracks/{name}/{n}.jpg" for n in names)
    return MaskVideo(video_id=name, size_hw=HW, fps=1.0, frame_names=names, images=images, objects=tuple(objects), expressions=tuple(said))


VIDEOS = [video("clip", 5), video("clip-b", 4)]


def write(module, folder: Path, videos=VIDEOS) -> dict[str, int]:
    return module.write(Folder(str(folder)), {"train": videos} if module is huggingface else videos)


@pytest.mark.parametrize("name", [*ALL])
def test_what_is_written_reads_back_and_is_the_same_bytes_again(tmp_path, name):
    module = ALL[name]
    write(module, tmp_path / "a")
    read = sorted(module.read(str(tmp_path / "a")), key=lambda v: v.video_id)
    wanted = VIDEOS
    if name == "davis":
        wanted = [replace(v, images=tuple(f"JPEGImages/480p/{v.video_id}/{n}.jpg" for n in v.frame_names)) for v in VIDEOS]
    if name == "cvat":  # has no place for sentences
        assert [e.text for e in read[0].expressions] == ["cup <&>", "jar"]
        wanted, read = ([replace(v, expressions=()) for v in of] for of in (wanted, read))
    assert read == wanted
    write(module, tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def truth(number: int) -> dict[tuple[str, str], np.ndarray]:
    """The dense masks of a video by object and frame, from the recipe and not from what was encoded."""
    v = VIDEOS[number]
    return {(o.object_id, n): dense(v.video_id, o.object_id, n) for o in v.objects for n in o.masks}


@pytest.mark.parametrize("module", [coco, fiftyone])
def test_coco_s_own_reader_finds_every_mask_box_and_area(tmp_path, module):
    write(module, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(str(tmp_path / "labels.json"))
    found = {}
    for annotation in read.loadAnns(read.getAnnIds()):
        [image] = read.loadImgs([annotation["image_id"]])
        mask = read.annToMask(annotation).astype(bool)
        rows, cols = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        assert annotation["area"] == mask.sum()
        assert read.cats[annotation["category_id"]]["name"] == {"1": "cup <&>", "2": "jar"}[annotation["track_id"]]
        found[image["file_name"].split("/")[2], annotation["track_id"], Path(image["file_name"]).stem] = mask
    wanted = {(v.video_id, *key): mask for n, v in enumerate(VIDEOS) for key, mask in truth(n).items()}
    assert found.keys() == wanted.keys()
    assert all((found[key] == wanted[key]).all() for key in wanted)


def test_fiftyone_takes_each_picture_once(tmp_path):
    parts = [replace(VIDEOS[0], video_id=f"clip--{n}", frame_names=VIDEOS[0].frame_names[n:], images=VIDEOS[0].images[n:]) for n in (0, 2)]
    write(fiftyone, tmp_path, parts)
    names = [image["file_name"] for image in json.loads((tmp_path / "labels.json").read_text())["images"]]
    assert names == list(VIDEOS[0].images)
    compile((tmp_path / "load.py").read_text(), "load.py", "exec")


def test_youtube_vis_has_a_mask_or_null_a_frame(tmp_path):
    write(ytvis, tmp_path)
    document = json.loads((tmp_path / "instances.json").read_text())
    annotation = document["annotations"][1]
    assert [value is not None for value in annotation["segmentations"]] == [False, True, False, True, False]
    assert len(annotation["bboxes"]) == len(annotation["areas"]) == document["videos"][0]["length"] == 5
    shown = rles.decode({**annotation["segmentations"][1], "counts": annotation["segmentations"][1]["counts"].encode()})
    assert (shown.astype(bool) == truth(0)["2", "00005"]).all()


def test_davis_png_s_numbers_are_the_objects_and_the_palette_is_voc_s(tmp_path):
    assert write(davis, tmp_path) == {"pngs": 9, "overlapping_pixels": 0}
    with Image.open(tmp_path / "Annotations/480p/clip/00005.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        numbers = np.asarray(picture)
    assert (numbers == truth(0)["1", "00005"] + 2 * truth(0)["2", "00005"]).all()
    assert (tmp_path / "ImageSets/2017/val.txt").read_text() == "clip\nclip-b\n"


def test_davis_shows_the_smaller_of_two_and_says_how_much_it_hid(tmp_path):
    big, small = np.ones(HW, bool), np.zeros(HW, bool)
    small[2:4, 3:6] = True
    objects = tuple(BenchmarkObject(object_id=o, category="x", masks={"00000": encode(m)}) for o, m in (("7", small), ("9", big)))
    given = replace(VIDEOS[0], frame_names=("00000",), images=("a/clip/00000.jpg",), objects=objects, expressions=())
    assert write(davis, tmp_path, [given]) == {"pngs": 1, "overlapping_pixels": 6}
    [read] = davis.read(str(tmp_path))
    assert {o.object_id: decode(o.masks["00000"]).sum() for o in read.objects} == {"7": 6, "9": 9 * 13 - 6}


def test_sa_v_has_a_mask_a_frame_and_object_empty_where_it_is_absent(tmp_path):
    write(sav, tmp_path)
    document = json.loads((tmp_path / "clip_manual.json").read_text())
    areas = [[rles.area({**m, "counts": m["counts"].encode()}) for m in row] for row in document["masklet"]]
    assert [[bool(a) for a in row] for row in areas] == [[False, False], [True, True], [True, False], [True, True], [True, False]]
    assert document["masklet_visibility_changes"] == [0, 3]
    assert document["masklet_first_appeared_frame"] == [1.0, 1.0]  # of the annotated ones
    assert document["video_frame_count"] == 4 * len(document["masklet"])
    for key in ("frame_names", "frame_files", "objects", "expressions"):  # a file of other origin
        del document[key]
    (tmp_path / "clip_manual.json").write_text(json.dumps(document))
    read = sav.read(str(tmp_path / "clip_manual.json"))[0]
    assert read.frame_names == ("00000", "00004", "00008", "00012", "00016")
    assert [list(o.masks) for o in read.objects] == [["00004", "00008", "00012", "00016"], ["00004", "00012"]]


def test_datasets_own_reader_gives_a_row_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # slow to load

    datasets.disable_progress_bars()
    write(huggingface, tmp_path / "set")
    read = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 6}
    row = read["train"][2]
    assert (row["video_id"], row["object_id"], row["expression"]) == ("clip", "2", "das Glas für Öl")
    assert [mask is not None for mask in row["masks"]] == [False, True, False, True, False]
    mask = rles.decode({"size": row["masks"][1]["size"], "counts": row["masks"][1]["counts"].encode()})
    assert (mask.astype(bool) == truth(0)["2", "00005"]).all()


def test_cvat_s_runs_are_row_major_inside_the_box(tmp_path):
    write(cvat, tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert [label.findtext("name") for label in root.iter("label")] == ["cup <&>", "jar"]
    found = {}
    for image in root.iter("image"):
        for element in image.iter("mask"):
            box = {key: int(element.get(key)) for key in ("left", "top", "width", "height")}
            flat, value = [], False
            for run in element.get("rle").split(", "):
                flat += [value] * int(run)
                value = not value
            mask = np.zeros(HW, bool)
            inside = np.array(flat).reshape(box["height"], box["width"])
            mask[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]] = inside
            found[image.get("name").split("/")[2], element.findtext("attribute"), Path(image.get("name")).stem] = mask
    assert len(found) == sum(len(truth(n)) for n in (0, 1))
    assert all((found[(v.video_id, *key)] == mask).all() for n, v in enumerate(VIDEOS) for key, mask in truth(n).items())


def unpacked(data: list[int]) -> np.ndarray:
    """Label Studio's code, read bit by bit."""
    bits = [byte >> (7 - n) & 1 for byte in data for n in range(8)]
    taken = iter(bits)

    def number(size):
        return int("".join(str(next(taken)) for _ in range(size)), 2)

    total, word = number(32), number(5) + 1
    sizes, out = [number(4) + 1 for _ in range(4)], []
    while len(out) < total:
        same = number(1)
        length = number(sizes[number(2)]) + 1
        out += [number(word)] * length if same else [number(word) for _ in range(length)]
    assert not any(taken)
    return np.array(out)


def test_label_studio_s_runs_are_four_equal_bytes_a_pixel(tmp_path):
    write(label_studio, tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=JPEGImages/egotracks/clip/00005.jpg"
    for region in tasks[1]["annotations"][0]["result"]:
        pixels = unpacked(region["value"]["rle"]).reshape(*HW, 4)
        assert (pixels == 255 * truth(0)[region["meta"]["text"][0], "00005"][..., None]).all()
    assert 'value="cup &lt;&amp;>"' in (tmp_path / "config.xml").read_text()


@pytest.mark.parametrize("size_hw", [(1, 1), (40, 700), (300, 300)])
def test_label_studio_s_long_runs_are_split(size_hw):
    for mask in (np.zeros(size_hw, bool), np.ones(size_hw, bool), np.arange(size_hw[0] * size_hw[1]).reshape(size_hw) % 7 == 3):
        assert (label_studio.unpack(label_studio.pack(mask), size_hw, "") == mask).all()


def test_label_studio_s_own_brush_with_words_written_out_reads():
    words = [255, 255, 255, 255, 0, 0, 0, 0]
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + f"0{0:02b}{7:03b}" + "".join(f"{w:08b}" for w in words)
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]
    assert label_studio.unpack(data, (1, 2), "").tolist() == [[True, False]]


def test_polygons_and_run_lists_of_other_coco_files_read(tmp_path):
    square = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
    runs = {"size": list(HW), "counts": [9, 9, 99]}
    rows = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": s, "instance_id": n, "iscrowd": 0, "bbox": [], "area": 1}
        for n, s in enumerate((square, runs), start=1)
    ]
    image = {"id": 1, "file_name": "frames/kitchen/7.png", "height": HW[0], "width": HW[1]}
    (tmp_path / "own.json").write_text(json.dumps({"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "pan"}]}))
    [read] = coco.read(str(tmp_path / "own.json"))
    assert (read.video_id, read.frame_names) == ("kitchen", ("7",))
    assert [decode(o.masks["7"]).sum() for o in read.objects] == [12, 9]
    assert [e.text for e in read.expressions] == ["pan", "pan"]


def spoil_json(change):
    def spoil(path):
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return spoil


BAD = {
    "no track": (coco, "labels.json", spoil_json(lambda v: v["annotations"][0].pop("track_id")), "no track_id"),
    "no image": (coco, "labels.json", spoil_json(lambda v: v["annotations"][0].update(image_id=99)), "image 99, which is not listed"),
    "no list": (coco, "labels.json", spoil_json(lambda v: v.update(images={})), "expected a list of objects in 'images'"),
    "short": (ytvis, "instances.json", spoil_json(lambda v: v["annotations"][0]["segmentations"].pop()), "4 masks for 5 frames"),
    "no videos": (ytvis, "instances.json", spoil_json(lambda v: v.pop("videos")), "malformed (KeyError: 'videos')"),
    "ragged": (sav, "clip_manual.json", spoil_json(lambda v: v["masklet"][0].pop()), "a mask for each of 5 frames and 2 objects"),
    "size": (sav, "clip_manual.json", spoil_json(lambda v: v.update(video_height=3.0)), "a mask of 9 x 13 on a picture of 3 x 13"),
    "entities": (cvat, "annotations.xml", lambda p: p.write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), "declares entities"),
    "no xml": (cvat, "annotations.xml", lambda p: p.write_text("<a"), "not XML"),
    "runs": (cvat, "annotations.xml", lambda p: p.write_text(p.read_text().replace('rle="', 'rle="1, ')), "do not fill its box"),
    "no tasks": (label_studio, "tasks.json", lambda p: p.write_text("{}"), "expected a list of tasks"),
    "early": (
        label_studio,
        "tasks.json",
        spoil_json(lambda v: v[1]["annotations"][0]["result"][0]["value"].update(rle=[0, 0])),
        "end early",
    ),
    "no png": (davis, "Annotations/480p/clip/00005.png", lambda p: p.write_bytes(b"?"), "not a readable PNG"),
    "no parquet": (huggingface, "data/train-00000-of-00001.parquet", lambda p: p.unlink(), "no data/*.parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_named(tmp_path, name):
    module, file, spoil, message = BAD[name]
    write(module, tmp_path)
    spoil(tmp_path / file)
    with pytest.raises(FormatError) as raised:
        module.read(str(tmp_path))
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("module", "file"),
    [
        (coco, "labels.json"),
        (ytvis, "instances.json"),
        (sav, "clip_manual.json"),
        (label_studio, "tasks.json"),
        (davis, "objects.json"),
    ],
)
def test_one_wrong_value_anywhere_reads_or_is_a_format_error(tmp_path, module, file):
    write(module, tmp_path)
    document = json.loads((tmp_path / file).read_text())
    refused = 0
    for seed in range(400):
        (tmp_path / file).write_text(json.dumps(mutate(document, seed)))
        try:
            module.read(str(tmp_path))
        except FormatError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert refused
