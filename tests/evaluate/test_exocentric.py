"""The exocentric rules against dense arithmetic of their own, on folders in the released layouts."""

import itertools
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from dense import boundary_f as dense_f
from PIL import Image

from egoray.cli import main
from egoray.config import EvaluateConfig
from egoray.errors import FormatError
from egoray.evaluate.exocentric import evaluate_exocentric
from egoray.formats import rvos
from support.rvos_folders import FRAMES, NAMES, write_answers, write_mevis, write_reasonvos, write_ref_davis


def j_of(a, b):
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def jf(gold, answer):
    j = np.mean([j_of(a, b) for a, b in zip(gold, answer, strict=True)])
    f = np.mean([dense_f(a, b) for a, b in zip(gold, answer, strict=True)])
    return {"J": j, "F": f, "J&F": (j + f) / 2}


def mean(rows):
    return {m: np.mean([row[m] for row in rows]) for m in ("J", "F", "J&F")}


def run(dataset, predictions, out, **more):
    return evaluate_exocentric(str(dataset), None, str(predictions), str(out), EvaluateConfig(**more))


def test_mevis_judges_the_union_of_an_expressions_objects_in_every_frame(tmp_path):
    truth = write_mevis(tmp_path / "mevis")
    answers = write_answers(tmp_path / "p", truth, value=1)
    summary = run(tmp_path / "mevis", tmp_path / "p", tmp_path / "out")
    assert summary["metrics"] == pytest.approx(mean([jf(truth[k], answers[k]) for k in truth]), abs=1e-12)
    assert (summary["benchmark"], summary["split"], summary["num_expressions"]) == ("mevis", "valid_u", 4)
    assert (tmp_path / "out" / "rows.parquet").exists()


def test_reasonvos_reads_lists_and_masks_of_255(tmp_path):
    truth = write_reasonvos(tmp_path / "reason")
    answers = write_answers(tmp_path / "p", truth)
    summary = run(tmp_path / "reason", tmp_path / "p", tmp_path / "out")
    assert summary["metrics"] == pytest.approx(mean([jf(truth[k], answers[k]) for k in truth]), abs=1e-12)
    assert set(summary["kinds"]) == {"mose", "vipseg"}


def test_revos_is_the_mean_of_referring_and_reasoning(tmp_path):
    truth = write_mevis(tmp_path / "revos", split="valid", revos=True)
    answers = write_answers(tmp_path / "p", [(*video.split("/"), e) for video, e in truth])
    summary = run(tmp_path / "revos", tmp_path / "p", tmp_path / "out")
    scored = {(v, e): jf(truth[v, e], answers[(*v.split("/"), e)]) for v, e in truth}
    means = [mean([s for (_, e), s in scored.items() if e == kind]) for kind in "01"]
    assert summary["overall"] == pytest.approx({m: (means[0][m] + means[1][m]) / 2 for m in means[0]}, abs=1e-12)


def test_ref_davis_in_both_readings(tmp_path):
    """By expression; and by annotator: one map of all objects, void left out, maps matched to objects as pays most."""
    truth = write_ref_davis(tmp_path / "davis")
    keys = [(video, str(e)) for video, maps in truth.items() for e in range(4 * int(max(m[m < 255].max() for m in maps)))]
    answers = write_answers(tmp_path / "p", keys, value=100)
    summary = run(tmp_path / "davis", tmp_path / "p", tmp_path / "out")
    gold = {(v, e): [m == int(e) // 4 + 1 for m in truth[v]] for v, e in keys}
    assert summary["metrics"] == pytest.approx(mean([jf(gold[k], answers[k]) for k in keys]), abs=1e-12)
    annotators = []
    for a in range(4):
        scores = []
        for video, maps in truth.items():
            mine = [k for k in keys if k[0] == video and int(k[1]) % 4 == a]
            merged = [np.zeros(maps[0].shape, int) for _ in range(FRAMES)]
            for n, key in enumerate(mine, start=1):
                for t in range(FRAMES):
                    merged[t][answers[key][t] & (merged[t] == 0)] = n
            seen = [m != 255 for m in maps]
            table = [
                [
                    jf([(m == o) & s for m, s in zip(maps, seen, strict=True)], [(p == n) & s for p, s in zip(merged, seen, strict=True)])
                    for o in range(1, len(mine) + 1)
                ]
                for n in range(1, len(mine) + 1)
            ]
            orders = itertools.permutations(range(len(mine)))
            best = max(orders, key=lambda order: sum(table[n][o]["J&F"] for n, o in enumerate(order)))
            scores += [table[n][o] for n, o in enumerate(best)]
        annotators.append(mean(scores))
    assert summary["annotators"] == pytest.approx(mean(annotators), abs=1e-12)
    assert summary["annotators"]["J"] != pytest.approx(summary["metrics"]["J"], abs=1e-3)


def test_a_missing_answer_and_a_damaged_one_are_listed_and_there_are_no_metrics(tmp_path):
    truth = write_mevis(tmp_path / "mevis")
    write_answers(tmp_path / "p", truth)
    shutil.rmtree(tmp_path / "p" / "clip0" / "1")
    (tmp_path / "p" / "clip1" / "0" / "00002.png").write_bytes(b"no png")
    summary = run(tmp_path / "mevis", tmp_path / "p", tmp_path / "out")
    assert (summary["done"], summary["failed"], summary["metrics"]) == (2, 2, None)
    messages = sorted(row["message"] for row in rvos.Folder(tmp_path / "out" / "failures").read_rows())
    assert "clip0/1: no such folder of PNGs" in messages[0]
    assert "00002.png: not a readable PNG" in messages[1]
    (tmp_path / "p" / "clip1" / "0" / "00002.png").unlink()
    assert run(tmp_path / "mevis", tmp_path / "p", tmp_path / "out", missing="empty")["failed"] == 0
    assert run(tmp_path / "mevis", tmp_path / "p", tmp_path / "out", missing="skip")["skipped"] == 1


def test_a_malformed_dataset_names_the_place(tmp_path):
    write_mevis(tmp_path / "mevis")
    path = tmp_path / "mevis" / "valid_u" / "mask_dict.json"
    table = json.loads(path.read_text())
    table["0"] = table["0"][:-1]
    path.write_text(json.dumps(table))
    rvos._mask_table.cache_clear()
    (first, *_) = rvos.read_questions(str(tmp_path / "mevis"))
    with pytest.raises(FormatError, match=r"annotation 0: expected a list of 5 masks"):
        rvos.read_gold(first)
    with pytest.raises(FormatError, match="in none of the layouts"):
        rvos.read_questions(str(tmp_path))
    meta = tmp_path / "mevis" / "valid_u" / "meta_expressions.json"
    meta.write_text(meta.read_text().replace('"clip0"', '"../clip0"'))
    with pytest.raises(FormatError, match="cannot be the name"):
        rvos.read_questions(str(tmp_path / "mevis"))


def test_answers_survive_a_round_trip(tmp_path):
    write_ref_davis(tmp_path / "davis")
    for question in rvos.read_questions(str(tmp_path / "davis"))[:3]:
        gold = rvos.read_gold(question)
        rvos.write_prediction(str(tmp_path / "p"), question, gold, rvos.size_of(question))
        assert rvos.read_prediction(str(tmp_path / "p"), question) == gold
        folder = tmp_path.joinpath("p", *rvos.prediction_parts(question))
        assert sorted(p.name for p in folder.iterdir()) == [f"{n}.png" for n in NAMES]
        assert set(np.unique(np.asarray(Image.open(folder / "00000.png")))) <= {0, 255}
        assert all(path.endswith(".jpg") for path in question.images)


@pytest.mark.ray
def test_the_command_takes_a_benchmark_as_it_is_and_ray_gives_the_same(cluster, tmp_path):
    truth = write_ref_davis(tmp_path / "davis", objects=(2, 2, 1))
    keys = [(q.item.video_id, q.item.expression_id) for q in rvos.read_questions(str(tmp_path / "davis"))]
    write_answers(tmp_path / "p", keys)
    asked = ["evaluate", "--dataset", str(tmp_path / "davis"), "--predictions", str(tmp_path / "p"), "--json", "--out"]
    local = CliRunner().invoke(main, [*asked, str(tmp_path / "a"), "--local"])
    shared = CliRunner().invoke(main, [*asked, str(tmp_path / "b")])
    assert local.exit_code == shared.exit_code == 0, shared.output
    one, other = (json.loads(done.stdout) for done in (local, shared))
    assert len(truth) == 3
    for key in ("metrics", "annotators", "num_expressions"):
        assert one[key] == other[key]
    told = CliRunner().invoke(main, [*asked[:-1], "--out", str(tmp_path / "c"), "--dry-run"])
    assert json.loads(told.stdout)["expressions"] == len(keys)
    assert not (tmp_path / "c").exists()
