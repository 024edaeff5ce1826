"""Grounding DINO: together as alone, its image backbone once for all sentences, and checkpoints that are refused."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from egoray.errors import ModelError
from egoray.models.grounding_dino import GroundingDino
from support.tiny_dino import write_tiny_dino

TEXTS = ["the red mug", "a blue box on the table.", "book"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dino(tmp_path_factory.mktemp("dino"), seed=3)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1) for _ in range(3)]


def test_images_and_sentences_together_are_answered_as_alone(folder, images):
    detector = GroundingDino(str(folder), threshold=0.3)
    calls = []
    plain = detector._backbone.backbone.forward
    detector._backbone.backbone.forward = lambda *args: calls.append(len(args[0])) or plain(*args)
    together = detector.detect(images, TEXTS)
    assert calls == [3]
    assert any(any(found) for found in together)
    for image, by_text in zip(images, together, strict=True):
        for text, found in zip(TEXTS, by_text, strict=True):
            ((alone,),) = detector.detect([image], [text])
            assert [d.score for d in alone] == pytest.approx([d.score for d in found], abs=1e-5)
            assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
            assert all(d.score > 0.3 for d in found)
    assert len(calls) == 1 + len(images) * len(TEXTS)
    assert detector.detect([], TEXTS) == []
    assert detector.detect(images[:2], []) == [[], []]


def test_a_sentence_without_a_word_is_refused(folder, images):
    with pytest.raises(ValueError, match="needs a word"):
        GroundingDino(str(folder)).detect(images, ["..."])


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "model.level_embed"}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit the network \(model.level_embed\)"):
        GroundingDino(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a usable Grounding DINO"):
        GroundingDino(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="not a usable Grounding DINO"):
        GroundingDino(str(tmp_path))
