import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.formats.grounding_json import answer_json, appearances

TIMES = [0.0, 0.2, 0.4, 0.7, 0.8, 1.0]


def test_appearances_are_runs_that_stop_when_the_next_frame_begins():
    assert appearances([1, 2, 4], TIMES) == [{"start_s": 0.2, "stop_s": 0.7}, {"start_s": 0.8, "stop_s": 1.0}]
    assert appearances([5], TIMES) == [{"start_s": 1.0, "stop_s": 1.2}]
    assert appearances([], TIMES) == appearances([], []) == []


def test_frames_are_native_and_boxes_are_the_masks_own():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:13] = True
    answer = answer_json("the cup", {2: encode(mask)}, {2: 0.75, 3: 0.1}, TIMES, stride=6)
    (frame,) = answer["frames"]
    assert (frame["frame"], frame["time_s"], frame["score"]) == (12, 0.4, 0.75)
    assert frame["box_xyxy"] == pytest.approx([10, 4, 13, 9])
    assert frame["rle"]["size"] == [20, 30]
    assert (answer["text"], answer["appearances"]) == ("the cup", [{"start_s": 0.4, "stop_s": 0.7}])
