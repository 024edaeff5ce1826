"""Grounded-SAM2 against a straight line of its own: the detector over all frames, one argmax, two runs of the stock predictor."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from egoray.core.masks import decode
from egoray.errors import ModelError
from egoray.registry import build_grounder
from support.clips import ArrayClip
from support.stock_sam2 import load_stock, write_lively
from support.tiny_dino import write_tiny_dino

TEXTS = ["The red mug", "blue box on the table.", "red book"]
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 255, (18, 26, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    light = rng.uniform(0.3, 1, 16)
    return [(np.roll(scene, (3 * i, 5 * i), (0, 1))[:112, :160] * light[i]).astype(np.uint8) for i in range(16)]


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return str(write_tiny_dino(tmp_path_factory.mktemp("dino"), seed=3))


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    return write_lively(str(tmp_path_factory.mktemp("sam2") / "narrow.pt"))


def detections(dino, frames, text):
    """(frame, score, box) of every box above the threshold, by transformers alone."""
    processor, model = AutoProcessor.from_pretrained(dino), AutoModelForZeroShotObjectDetection.from_pretrained(dino).eval()
    found = []
    for t, frame in enumerate(frames):
        inputs = processor(images=frame, text=text.lower().rstrip(".") + ".", return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs)
        best = processor.post_process_grounded_object_detection(output, inputs.input_ids, THRESHOLD, THRESHOLD, [frame.shape[:2]])[0]
        found += [(t, float(s), b.tolist()) for s, b in zip(best["scores"], best["boxes"], strict=True)]
    return found


def tracked(sam2, frames, box):
    predictor = load_stock(sam2)
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=np.array(box, np.float32))
    return {t: logits[1] for t, logits in predictor.propagate(state).items()}


@pytest.mark.parametrize("initialisation", ["highest", "naive"])
def test_masks_are_those_of_the_straight_line(clip, dino, sam2, initialisation):
    options = {"detector": dino, "threshold": THRESHOLD, "initialisation": initialisation, "detector_batch": 3}
    answers = build_grounder(f"grounded-sam2:{sam2}", **options).ground(ArrayClip(clip), TEXTS)
    anchors = set()
    for text, answer in zip(TEXTS, answers, strict=True):
        found = detections(dino, clip, text)
        assert found, "the tiny detector finds nothing: the test shows nothing"
        first = [d for d in found if d[0] == found[0][0]] if initialisation == "naive" else found
        frame, score, box = max(first, key=lambda d: d[1])
        at, detection = answer.detection
        anchors.add(at)
        assert at == frame
        assert detection.score == pytest.approx(score, abs=1e-4)
        np.testing.assert_allclose(detection.box, box, atol=0.05)
        forward = tracked(sam2, clip[frame:], detection.box)
        back = tracked(sam2, clip[frame::-1], detection.box)
        logits = {frame - t: v for t, v in back.items()} | {frame + t: v for t, v in forward.items()}
        assert set(answer.scores) == set(range(len(clip)))
        for t, expected in logits.items():
            mask = decode(answer.masks[t]) if t in answer.masks else np.zeros(clip[0].shape[:2], bool)
            clear = np.abs(expected) > 1e-3
            assert ((expected > 0) == mask)[clear].all(), t
    assert len(anchors) == 2


def test_nothing_found_is_an_empty_answer(clip, dino, sam2):
    answers = build_grounder(f"grounded-sam2:{sam2}", detector=dino, threshold=1.0).ground(ArrayClip(clip[:3]), TEXTS[:1])
    assert [(dict(a.masks), dict(a.scores), a.detection) for a in answers] == [({}, {}, None)]


def test_what_is_no_detector_says_so(tmp_path, sam2):
    with pytest.raises(ModelError, match="not a usable Grounding DINO"):
        build_grounder(f"grounded-sam2:{sam2}", detector=str(tmp_path))
    with pytest.raises(ModelError, match="key_frames: not a setting of grounded-sam2"):
        build_grounder(f"grounded-sam2:{sam2}", key_frames="uniform")
