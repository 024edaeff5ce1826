"""Trackers by name, and the settings that each takes."""

import pytest

from egoray import registry
from egoray.config import AnnotateConfig
from egoray.errors import ModelError
from egoray.models.sam2_weights import write_random_checkpoint
from egoray.registry import TRACKERS, build_tracker, tracker_entry


def test_sam2_takes_the_stages_own_settings(tmp_path):
    path = write_random_checkpoint(str(tmp_path / "narrow.pt"))
    config = AnnotateConfig(model=f"sam2:{path}", fill_holes=4, non_overlapping=True)
    tracker = build_tracker(config.model, **config.tracker_options())
    assert tracker.settings.fill_holes == 4
    assert tracker.settings.non_overlapping
    assert TRACKERS["sam2"].options == AnnotateConfig(fill_holes=1, non_overlapping=True, compile=True).tracker_options().keys()


def test_defaults_are_not_passed_on():
    assert AnnotateConfig().tracker_options() == {}
    assert build_tracker("grabcut", **AnnotateConfig().tracker_options()).name == "grabcut"


def test_a_setting_of_another_tracker_is_refused():
    with pytest.raises(ModelError, match=r"fill_holes: not a setting of grabcut"):
        build_tracker("grabcut", fill_holes=4)


def test_sam2_alone_is_the_published_2_1():
    assert tracker_entry("sam2") == (TRACKERS["sam2"], "facebook/sam2.1-hiera-large")
    assert tracker_entry("sam2:mine.pt")[1] == "mine.pt"


def test_models_say_what_they_need_and_what_is_missing(monkeypatch):
    monkeypatch.setattr(registry, "_memory_gb", lambda on_gpu: 6.0)
    rows = registry.models_here()
    assert [row["name"] for row in rows] == [*registry.TRACKERS, *registry.GROUNDERS]
    missing = {(row["name"], row["for"]): row["missing"] for row in rows}
    assert missing["nano", "predict, ground"] == missing["grabcut", "annotate"] == []
    lacks = " ".join(missing["grounded-sam2", "predict, ground"])
    assert "8 GB of memory (here 6 GB)" in lacks
    assert "facebook/sam2.1-hiera-large" in lacks
