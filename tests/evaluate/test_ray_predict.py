"""Predict over rendered clips: official files and the table agree, a rerun changes nothing, poison and dead actors cost their own clip."""

import json
import os
import shutil
from functools import partial

import pytest

from egoray.config import EvaluateConfig, PredictConfig
from egoray.core.clip import ImageClip
from egoray.errors import ModelError
from egoray.evaluate.predict import forecast, pack, plan_from_files, unpack, work_folder
from egoray.evaluate.ray_predict import predict
from egoray.evaluate.run import evaluate
from egoray.formats.egomask import read_detection, read_items, read_prediction
from egoray.synthetic.sample import write_sample
from support.exocentric import write_mevis
from support.grounders import broken, square

pytestmark = pytest.mark.ray
SPLIT = "short"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, videos=3, seed=4, seconds=6, size_hw=(72, 128), tier=SPLIT, workers=1)
    return folder / "truth"


@pytest.fixture
def dataset(rendered, tmp_path):
    return shutil.copytree(rendered, tmp_path / "truth")


def run(dataset, out, build=square, **options):
    config = PredictConfig(workers=2)
    return predict(plan_from_files(str(dataset), SPLIT, config), str(out), config, build=build, **options)


def rewrite(dataset, name, change):
    path = dataset / name
    content = json.loads(path.read_text())
    change(content["videos"])
    path.write_text(json.dumps(content))


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".parquet")}


def test_answers_are_written_in_the_released_layout_and_as_a_table(cluster, dataset, tmp_path):
    out = tmp_path / "predictions"
    name = f"subset/{SPLIT}/meta_expressions.json"
    rewrite(dataset, name, lambda videos: next(iter(videos.values()))["expressions"]["0"].update(exp="nothing of the kind"))
    summary = run(dataset, out)
    items = read_items(dataset, SPLIT)
    assert (summary["expected"], summary["done"], summary["failed"], summary["expressions"]) == (3, 3, 0, len(items))
    assert summary["frames"] == sum(len(names) for names in {item.video_id: item.frame_names for item in items}.values())
    assert summary["frames_per_s"] > 0
    rows = list((work_folder(str(out), SPLIT) / "answers").read_rows())
    for item in items:
        masks = read_prediction(out, SPLIT, item)
        mine = [row for row in rows if (row["video_id"], row["expression_id"]) == (item.video_id, item.expression_id)]
        if "nothing" in item.text:
            assert (masks, mine, read_detection(out, SPLIT, item)) == ({}, [], None)
            continue
        assert list(masks) == list(item.frame_names[::2])
        assert {row["frame_name"]: row["counts"] for row in mine if row["counts"]} == {name: rle.counts for name, rle in masks.items()}
        assert [row["frame"] for row in mine] == list(range(len(item.frame_names)))
        assert read_detection(out, SPLIT, item) == {
            "frame_idx": 2,
            "frame_name": item.frame_names[2],
            "labels": [item.text],
            "input_boxes": [10.0, 5.0, 30.0, 15.0],
            "confidences": [0.8],
        }
    before = bytes_of(out / SPLIT) | bytes_of(out / "work" / SPLIT / "answers")
    again = run(dataset, out)
    assert (again["done"], again["skipped"], again["frames"]) == (3, 3, 0)
    assert bytes_of(out / SPLIT) | bytes_of(out / "work" / SPLIT / "answers") == before


def test_only_what_changed_is_asked_again(cluster, dataset, tmp_path):
    out = tmp_path / "predictions"
    assert run(dataset, out, limit=2)["expected"] == 2
    name = f"subset/{SPLIT}/meta_expressions.json"
    rewrite(dataset, name, lambda videos: next(iter(videos.values()))["expressions"]["0"].update(exp="another thing"))
    assert (run(dataset, out)["skipped"], len((work_folder(str(out), SPLIT) / "answers").names(".parquet"))) == (1, 3)


def test_a_damaged_image_and_a_missing_folder_cost_their_own_clip(cluster, dataset, tmp_path):
    images = sorted((dataset / "JPEGImages" / "egotracks").iterdir()) if (dataset / "JPEGImages" / "egotracks").exists() else []
    images = images or sorted((dataset / "JPEGImages" / "refego").iterdir())
    victim = sorted(images[0].iterdir())[1]
    victim.write_bytes(b"torn")
    shutil.rmtree(images[1])
    out = tmp_path / "predictions"
    summary = run(dataset, out)
    assert (summary["expected"], summary["done"], summary["failed"]) == (3, 1, 2)
    messages = {row["unit"]: row["message"] for row in (work_folder(str(out), SPLIT) / "failures").read_rows()}
    assert victim.name in messages[images[0].name]
    assert "no such folder of images" in messages[images[1].name]


def test_a_dead_actor_costs_nothing_and_a_clip_that_kills_is_given_up(cluster, dataset, tmp_path):
    plan = plan_from_files(str(dataset), SPLIT, PredictConfig())
    shade = str([int(image.mean()) for _, image in ImageClip(plan.clips[0].paths).frames()])
    (tmp_path / "once").write_text(shade)
    summary = run(dataset, tmp_path / "a", build=partial(square, killer=str(tmp_path / "once")))
    assert (summary["done"], summary["failed"]) == (3, 0)
    assert not (tmp_path / "once").exists()
    (tmp_path / "always").write_text(shade)
    summary = run(dataset, tmp_path / "b", build=partial(square, killer=str(tmp_path / "always")))
    assert (summary["done"], summary["failed"]) == (2, 1)
    (failure,) = (work_folder(str(tmp_path / "b"), SPLIT) / "failures").read_rows()
    assert "its actor died in each of 3 attempts" in failure["message"]
    os.unlink(tmp_path / "always")
    assert run(dataset, tmp_path / "b")["failed"] == 1
    assert run(dataset, tmp_path / "b", retry_failed=True)["failed"] == 0


def test_a_model_that_cannot_be_loaded_ends_the_run(cluster, dataset, tmp_path):
    with pytest.raises(ModelError, match="no such weights"):
        run(dataset, tmp_path / "out", build=broken)


def test_a_wordless_sentence_is_a_failure_of_its_own(dataset):
    name = f"subset/{SPLIT}/meta_expressions.json"
    rewrite(dataset, name, lambda videos: next(iter(videos.values()))["expressions"]["0"].update(exp=" . "))
    plan = plan_from_files(str(dataset), SPLIT, PredictConfig())
    assert [f.unit.split("/")[1] for f in plan.failures] == ["0"]
    items = read_items(dataset, SPLIT)
    told = forecast(plan)
    assert (told["clips"], told["expressions"], told["cannot_be_asked"]) == (3, len(items) - 1, 1)
    assert [unpack(pack(clip)) for clip in plan.clips] == list(plan.clips)


def test_an_exocentric_benchmark_is_answered_in_its_own_layout(cluster, tmp_path):
    write_mevis(tmp_path / "mevis")
    plan = plan_from_files(str(tmp_path / "mevis"), None, PredictConfig())
    assert plan.split == "valid_u"
    summary = predict(plan, str(tmp_path / "p"), PredictConfig(workers=1), build=square)
    assert (summary["done"], summary["failed"]) == (len(plan.clips), 0)
    scored = evaluate(str(tmp_path / "mevis"), None, str(tmp_path / "p"), str(tmp_path / "out"), EvaluateConfig())
    assert (scored["done"], scored["failed"], scored["split"]) == (forecast(plan)["expressions"], 0, "valid_u")
    assert scored["metrics"]["J&F"] > 0
