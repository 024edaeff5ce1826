"""A model in training is tried: the truth scores one, silence what silence scores, and both are drawn."""

import cv2
import numpy as np
import pytest

from egoray.errors import ConfigError
from egoray.formats.egomask import images_dir
from egoray.train.trial import trial_items, try_on
from support.predictions import SIZE, write_dataset


@pytest.fixture
def root(tmp_path):
    root = write_dataset(tmp_path, num_videos=3, num_frames=6)
    for items in trial_items(root, "medium", 3):
        for name in items[0].frame_names:
            file = tmp_path / images_dir("", items[0]) / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.full((*SIZE, 3), 90, np.uint8))
    return root


def truth(clip, items, golds):
    return [
        {frame: gold[name] for frame, name in enumerate(item.frame_names) if name in gold} for item, gold in zip(items, golds, strict=True)
    ]


def test_the_truth_scores_one_and_every_expression_is_drawn(root):
    clips = trial_items(root, "medium", 2)
    figures, picture = try_on(truth, root, clips)
    assert figures == {"IoU_gold_pred": 1.0, "IoU_gold": 1.0, "IoU_all": 1.0, "T_recall": 1.0, "J&F": 1.0}
    drawn = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    one = cv2.imdecode(np.frombuffer(try_on(truth, root, [clips[0][:1]])[1], np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (8 * one.shape[0], *one.shape[1:])


def test_silence_finds_nothing(root):
    clips = trial_items(root, "medium", 3)
    figures, _ = try_on(lambda clip, items, golds: [{} for _ in items], root, clips)
    assert figures["T_recall"] == figures["IoU_gold"] == figures["IoU_gold_pred"] == 0.0


def test_a_split_without_clips_is_named(root):
    with pytest.raises(ConfigError, match="no long clip"):
        trial_items(root, "long", 3)
