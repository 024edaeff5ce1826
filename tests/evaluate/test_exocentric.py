"""Exocentric sets scored as their evaluators do, against the rules written out on dense masks."""

import json
import shutil
from pathlib import Path

import exocentric_rules as rules
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import EvaluateConfig
from egoray.errors import ConfigError, FormatError
from egoray.evaluate.ray_evaluate import evaluate_on_ray
from egoray.evaluate.run import evaluate
from egoray.formats.rvos import read
from support.exocentric import FRAMES, SIZE, write_answers, write_davis, write_mevis, write_picture, write_reason, write_revos


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(dataset, predictions) by name."""
    root, found = tmp_path_factory.mktemp("exocentric"), {}
    for name, write in {"mevis": write_mevis, "revos": write_revos, "reasonvos": write_reason, "ref-davis17": write_davis}.items():
        dataset = write(root / name)
        answers = [question.answer for question in read(dataset)]
        found[name] = dataset, write_answers(root / f"{name}-predictions", answers, value=None if name == "ref-davis17" else 255)
    return found


def run(folders, out, split=None, **settings):
    return evaluate(folders[0], split, folders[1], str(out), EvaluateConfig(**settings))


def rows(out):
    return pq.read_table(Path(out) / "rows.parquet").to_pylist()


def expected(name, folders):
    if name == "reasonvos":
        return rules.reason(*folders)
    meta, masks = (
        ("valid_u/meta_expressions.json", "valid_u/mask_dict.json")
        if name == "mevis"
        else ("meta_expressions_valid_.json", "mask_dict.json")
    )
    return rules.lists(f"{folders[0]}/{meta}", f"{folders[0]}/{masks}", folders[1])


@pytest.mark.parametrize("name", ["mevis", "revos", "reasonvos"])
def test_an_expression_is_scored_by_its_set_s_rules(sets, tmp_path, name):
    summary = run(sets[name], tmp_path)
    want = expected(name, sets[name])
    got = {(row["video_id"], row["expression_id"]): (row["J"], row["F"]) for row in rows(tmp_path)}
    assert got.keys() == want.keys()
    assert np.array([got[key] for key in want]) == pytest.approx(np.array(list(want.values())), abs=1e-12)
    j, f = np.mean(list(want.values()), 0)
    assert [summary["metrics"][m] for m in ("J", "F", "J&F")] == pytest.approx([j, f, (j + f) / 2], abs=1e-12)
    assert (summary["benchmark"], summary["num_expressions"], summary["failed"]) == (name, len(want), 0)


def test_revos_weighs_referring_and_reasoning_alike(sets, tmp_path):
    summary, want = run(sets["revos"], tmp_path), expected("revos", sets["revos"])
    j, f = np.mean([want["UVO/all/-fb", "0"], want["UVO/all/-fb", "1"]], 0)
    assert [summary["overall"][m] for m in ("J", "F", "J&F")] == pytest.approx([j, f, (j + f) / 2], abs=1e-12)


def davis_is(summary, out, want):
    j, f = np.mean(list(want.values()), 0)
    assert [summary["metrics"][m] for m in ("J", "F", "J&F")] == pytest.approx([j, f, (j + f) / 2], abs=1e-12)
    assert len(rows(out)) == len(want)


def test_ref_davis17_merges_matches_and_ignores_void_pixels(sets, tmp_path):
    dataset, predictions = sets["ref-davis17"]
    summary = run(sets["ref-davis17"], tmp_path)
    davis_is(summary, tmp_path, rules.davis(dataset, predictions))
    alone = np.mean(list(rules.davis_alone(dataset, predictions).values()), 0)
    assert [summary["metrics_alone"][m] for m in ("J", "F")] == pytest.approx(list(alone), abs=1e-12)
    assert (summary["num_expressions"], summary["expected"], summary["done"]) == (16, 8, 8)
    kinds = summary["slices"]["kind"]
    assert {kind: group["num"] for kind, group in kinds.items()} == dict.fromkeys(kinds, 5)
    assert len(kinds) == 4


def test_ref_davis17_takes_merged_answers_too(sets, tmp_path):
    dataset, predictions = sets["ref-davis17"]
    for video, num_objects in (("clip0", 2), ("clip1", 2)):
        for annotator in range(4):
            for frame, numbers in zip(FRAMES, rules.merge(predictions, video, FRAMES, num_objects, annotator), strict=True):
                write_picture(tmp_path / f"merged/anno_{annotator}/{video}/{frame}.png", numbers, palette=True)
    summary = run((dataset, str(tmp_path / "merged")), tmp_path / "out")
    assert summary["metrics"] == run(sets["ref-davis17"], tmp_path / "alone")["metrics"]
    assert "metrics_alone" not in summary


def test_ref_davis17_with_more_proposals_than_objects(sets, tmp_path):
    """An extra proposal may fit better than what the object's own sentence gave; an empty one where the object is absent."""
    dataset, rng = sets["ref-davis17"][0], np.random.default_rng(5)
    pictures = {(v, a): [rng.integers(0, 6, SIZE) for _ in FRAMES] for v in ("clip0", "clip1") for a in range(4)}
    for (video, annotator), frames in pictures.items():
        for frame, numbers in zip(FRAMES, frames, strict=True):
            write_picture(tmp_path / f"p/anno_{annotator}/{video}/{frame}.png", numbers, palette=True)
    want = rules.davis(dataset, None, merged=lambda _, video, *rest: np.array(pictures[video, rest[-1]]))
    davis_is(run((dataset, str(tmp_path / "p")), tmp_path / "out"), tmp_path / "out", want)


@pytest.mark.parametrize("name", ["mevis", "reasonvos", "ref-davis17"])
def test_the_truth_as_answer_scores_1(sets, tmp_path, name):
    from egoray.formats.rvos import read_gold
    from egoray.formats.rvos_predictions import write_prediction

    dataset = sets[name][0]
    for question in read(dataset):
        write_prediction(str(tmp_path / "p"), question, read_gold(dataset, question))
    metrics = run((dataset, str(tmp_path / "p")), tmp_path / "out")["metrics"]
    if name == "ref-davis17":  # two of the five objects' rows a picture more: the one that no sentence is about is missed
        metrics = {
            m: np.mean([row[m] for row in rows(tmp_path / "out") if not row["expression_id"].startswith("anno")]) for m in ("J", "F")
        }
    assert (metrics["J"], metrics["F"]) == (1, 1)


@pytest.mark.ray
@pytest.mark.parametrize("name", ["mevis", "ref-davis17"])
def test_a_cluster_gives_the_same_bytes(cluster, sets, tmp_path, name):
    evaluate_on_ray(sets[name][0], None, sets[name][1], str(tmp_path / "ray"), EvaluateConfig(workers=2))
    run(sets[name], tmp_path / "local")
    assert (tmp_path / "ray/rows.parquet").read_bytes() == (tmp_path / "local/rows.parquet").read_bytes()
    a, b = (json.loads((tmp_path / kind / "summary.json").read_text()) for kind in ("ray", "local"))
    assert {k: a[k] for k in a if k not in ("seconds", "frames_per_s")} == {k: b[k] for k in b if k not in ("seconds", "frames_per_s")}


def test_a_missing_answer_costs_its_unit_and_is_listed(sets, tmp_path):
    dataset, predictions = sets["mevis"][0], tmp_path / "p"
    shutil.copytree(sets["mevis"][1], predictions)
    shutil.rmtree(predictions / "vid1/2")
    folders = dataset, str(predictions)
    args = ["evaluate", "--dataset", dataset, "--predictions", str(predictions), "--out", str(tmp_path / "out"), "--local"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert "vid1/2: no prediction; write black PNGs" in done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["done"], summary["failed"], summary["metrics"]) == (5, 1, None)
    want = rules.lists(f"{dataset}/valid_u/meta_expressions.json", f"{dataset}/valid_u/mask_dict.json", sets["mevis"][1])
    del want["vid1", "2"]
    assert run(folders, tmp_path / "skip", missing="skip")["metrics"]["J"] == pytest.approx(np.mean(list(want.values()), 0)[0], abs=1e-12)
    assert run(folders, tmp_path / "empty", missing="empty")["done"] == 6


def test_one_missing_answer_costs_its_annotator_of_ref_davis17(sets, tmp_path):
    predictions = tmp_path / "p"
    shutil.copytree(sets["ref-davis17"][1], predictions)
    shutil.rmtree(predictions / "clip0/5")
    folders = sets["ref-davis17"][0], str(predictions)
    summary = run(folders, tmp_path / "out")
    assert (summary["expected"], summary["done"], summary["failed"]) == (8, 7, 1)
    skipped = run(folders, tmp_path / "skip", missing="skip")
    assert (skipped["done"], skipped["skipped"]) == (7, 1)
    empty = run(folders, tmp_path / "empty", missing="empty")
    assert empty["metrics"]["T_recall"] < run(sets["ref-davis17"], tmp_path / "all")["metrics"]["T_recall"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("mevis", lambda p: (p / "vid0/1/00002.png").unlink(), "vid0/1/00002.png: not found"),
        ("mevis", lambda p: (p / "vid0/1/00002.png").write_bytes(b"\x89PNG"), "00002.png: not a readable PNG"),
        ("mevis", lambda p: write_picture(p / "vid0/1/00002.png", np.eye(3) * 255), "frame 00002: masks of"),
        ("mevis", lambda p: write_picture(p / "vid0/1/00002.png", np.eye(3)[..., None] * [255, 0, 0]), "has colours"),
        ("reasonvos", lambda p: (p / "mose_a_0_1/0/00000.png").unlink(), "mose_a_0_1/0/00000.png: not found"),
        ("ref-davis17", lambda p: (p / "clip1/3/00001.png").unlink(), "clip1/3/00001.png: not found"),
        ("ref-davis17", lambda p: write_picture(p / "clip1/3/00001.png", np.eye(3) * 100), "is of (3, 3), not of (18, 24)"),
        ("ref-davis17", lambda p: [write_picture(p / f"clip1/3/{f}.png", np.eye(*SIZE)) for f in FRAMES], "has values 0 and 1"),
        ("ref-davis17", lambda p: write_picture(p / "anno_3/clip1/00000.png", np.full(SIZE, 21)), "a pixel has the number 21"),
    ],
)
def test_a_damaged_answer_costs_its_unit_and_is_named(sets, tmp_path, name, damage, message):
    predictions = tmp_path / "p"
    shutil.copytree(sets[name][1], predictions)
    if "number" in message:
        shutil.rmtree(predictions)
        for frame in FRAMES:
            for video, annotator in ((v, a) for v in ("clip0", "clip1") for a in range(4)):
                write_picture(predictions / f"anno_{annotator}/{video}/{frame}.png", np.zeros(SIZE))
    damage(predictions)
    summary = run((sets[name][0], str(predictions)), tmp_path / "out")
    (failure,) = pq.read_table(tmp_path / "out/failures").to_pylist()
    assert message in failure["message"]
    assert (summary["failed"], summary["metrics"]) == (1, None)


def test_what_cannot_be_asked_for(sets, tmp_path):
    with pytest.raises(ConfigError, match="it has valid_u, train, valid"):
        run(sets["mevis"], tmp_path, split="medium")
    with pytest.raises(ConfigError, match="official-compat is EgoMask's"):
        run(sets["mevis"], tmp_path, official_compat=True)
    (tmp_path / "mevis/valid").mkdir(parents=True)
    shutil.copy(Path(sets["mevis"][0]) / "valid_u/meta_expressions.json", tmp_path / "mevis/valid/meta_expressions.json")
    with pytest.raises(FormatError, match="scored by the set's own server"):
        run((str(tmp_path / "mevis"), ""), tmp_path, split="valid")


def test_the_command_knows_the_set_and_shows_the_paper_s_figures(sets, tmp_path):
    args = ["evaluate", "--dataset", sets["ref-davis17"][0], "--predictions", sets["ref-davis17"][1], "--local", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert "ref-davis17 valid: 16 expressions" in done.stderr
    assert "65.8" in done.stderr
    plan = json.loads(CliRunner().invoke(main, [*args, "--dry-run", "--json"]).stdout)
    assert plan == {"expressions": 16, "videos": 2, "frames": 40, "missing_predictions": 0}
