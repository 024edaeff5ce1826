"""Grounding a video: what lies in the folder afterwards, by the packaged model and through the command."""

import json

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.masks import from_json, iou
from egoray.core.video import probe
from egoray.formats.egomask import read_gold, read_items
from egoray.synthetic.sample import write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, videos=1, seed=77, seconds=8, size_hw=(360, 640), tier="medium", workers=1)
    return folder


def test_ground_finds_a_thing_and_says_when_it_is_in_view(sample, tmp_path):
    items = {item.text: item for item in read_items(sample / "truth", "medium")}
    gold = {text: read_gold(sample / "truth", item) for text, item in items.items()}
    text = max(items, key=lambda t: sum(sum(m.size) for m in gold[t].values()))
    (video,) = (sample / "clips").glob("*.mp4")
    asked = [str(video), text, "a purple dinosaur", "--fps", "5", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["ground", *asked])
    assert done.exit_code == 0, done.output
    assert "a purple dinosaur: in 0 of 40 frames" in done.output
    content = json.loads((tmp_path / "out" / "grounding.json").read_text())
    found, absent = content["results"]
    assert (content["model"], absent["frames"], absent["appearances"]) == ("nano", [], [])
    assert found["appearances"][0]["start_s"] < found["appearances"][-1]["stop_s"] <= 8.1
    native = {frame["frame"]: frame for frame in found["frames"]}
    assert set(native) <= set(range(0, 240, 6))
    overlaps = []
    for name, mask in gold[text].items():
        if frame := native.get(6 * int(name)):
            assert frame["time_s"] == pytest.approx(6 * int(name) / 30, abs=0.01)
            overlaps.append(iou(from_json(frame["rle"], "answer"), mask))
    assert overlaps
    assert max(overlaps) > 0.5
    assert probe(str(tmp_path / "out" / "overlay.mp4"), "o").num_frames == 40
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["chosen_1.jpg", "grounding.json", "overlay.mp4"]


def test_what_cannot_be_asked_is_one_line(sample, tmp_path):
    (video,) = (sample / "clips").glob("*.mp4")
    for arguments, message in (
        ([str(video), " ... "], "needs a word"),
        ([str(tmp_path / "none.mp4"), "a cup"], "not found"),
        ([str(video), "a cup", "--model", "sam9"], "unknown; known are nano, grounded-sam2, sa2va-4b, sa2va-26b, videolisa"),
        ([str(video), "a cup", "--set", "detector=x"], "detector: not a setting of nano"),
    ):
        done = CliRunner().invoke(main, ["ground", *arguments, "--out", str(tmp_path / "out")])
        assert (done.exit_code, message in done.output) == (2, True), done.output
