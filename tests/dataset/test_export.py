"""A dataset out to another tool and back in: the same masks and sentences, and a dataset that `validate` passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import BuildConfig
from egoray.dataset.build import build
from egoray.dataset.export import FORMATS, export, import_masks, read_split
from egoray.dataset.validate import validate
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import read_train
from support.tiers import REFEGO, write_tiers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("made")
    build(*write_tiers(folder), str(folder / "dataset"), BuildConfig(long=1, medium=2, medium_per_video=2))
    return str(folder / "dataset")


def contents(dataset: str, split: str) -> dict:
    return {
        (v.video_id, o.object_id): (o.category, dict(o.masks), sorted(e.text for e in v.expressions if e.object_id == o.object_id))
        for v in read_split(dataset, split)
        for o in v.objects
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_out_and_in_again_is_the_same_and_valid(dataset: str, tmp_path: Path, kind: str) -> None:
    counts = export(dataset, "short", kind, str(tmp_path / "out"), pictures=True)
    assert (counts["videos"], counts["pictures"]) == (1, 20)
    images = tmp_path / "out"
    import_masks(kind, str(tmp_path / "out"), str(tmp_path / "again"), tier="short", images=dataset if kind == "sa-v" else str(images))
    found = validate(str(tmp_path / "again"))
    assert (found.faults, found.warnings) == ([], [])
    wanted, got = contents(dataset, "short"), contents(str(tmp_path / "again"), "short")
    if kind == "cvat":
        wanted = {key: (category, masks, [category]) for key, (category, masks, _) in wanted.items()}
    if kind == "davis":  # the two overlap; the smaller shows, so only it is whole
        assert {key: got[key][::2] for key in got} == {key: wanted[key][::2] for key in wanted}
    else:
        assert got == wanted


def test_all_splits_go_out_and_a_training_set_comes_in(dataset: str, tmp_path: Path) -> None:
    counts = export(dataset, "all", "huggingface", str(tmp_path / "out"))
    assert counts["splits"] == ["short", "medium", "long", "train"]
    assert {split: counts[split] for split in counts["splits"]} == {"short": 4, "medium": 8, "long": 4, "train": 4}
    export(dataset, "train", "youtube-vis", str(tmp_path / "yt"))
    import_masks("youtube-vis", str(tmp_path / "yt/instances.json"), str(tmp_path / "own"), tier="train", images=dataset)
    assert contents(str(tmp_path / "own"), "train") == contents(dataset, "train")
    assert validate(str(tmp_path / "own")).faults == []
    assert read_train(tmp_path / "own")[0].objects[0].category == "red cup"


def test_a_folder_in_use_and_a_split_that_is_not_there_are_refused(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    for run in (lambda: export(dataset, "short", "coco", str(tmp_path)), lambda: import_masks("coco", "x", str(tmp_path), tier="long")):
        with pytest.raises(ConfigError, match=r"holds files already, such as mine\.txt"):
            run()
    lonely = Path(shutil.copytree(Path(dataset) / "egomask-train", tmp_path / "train"))
    with pytest.raises(FormatError, match="has no video in short"):
        export(str(lonely), "short", "coco", str(tmp_path / "out"))


def test_pictures_outside_the_given_folder_are_refused(dataset: str, tmp_path: Path) -> None:
    export(dataset, "short", "coco", str(tmp_path / "out"))
    path = tmp_path / "out/labels.json"
    path.write_text(path.read_text().replace(f"JPEGImages/refego/{REFEGO}", "../../secret"))
    with pytest.raises(FormatError, match="leads out of"):
        import_masks("coco", str(path), str(tmp_path / "in"), tier="short", images=dataset)


def test_the_commands(dataset: str, tmp_path: Path) -> None:
    out = CliRunner().invoke(main, ["export", dataset, "--format", "coco", "--split", "long", "--out", str(tmp_path / "o"), "--json"])
    assert json.loads(out.stdout)["annotations"] > 0
    args = ["import", str(tmp_path / "o"), "--format", "coco", "--tier", "long", "--out", str(tmp_path / "d"), "--json"]
    assert json.loads(CliRunner().invoke(main, args).stdout)["videos"] == 1
    assert CliRunner().invoke(main, ["validate", str(tmp_path / "d")]).exit_code == 0
