"""The nano-detector around a network of known answers: what is read from a sentence, what the boxes must obey, what is refused."""

from importlib import resources

import numpy as np
import pytest
import torch

from egoray.errors import ModelError
from egoray.models.detector import NanoDetector, _distinct, _overlaps, _related, parse
from egoray.models.nano.detector_net import MAX_WORDS, DetectorNet, tokenize
from egoray.synthetic.world import World, WorldConfig, tight_box
from egoray.train import detector_trial as trial


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("nano") / "detector.pt"
    torch.save({"model": DetectorNet().state_dict()}, path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("the red mug", ("the red mug", "", "")),
        ("The mug to the left of the red box.", ("the mug", "left of", "the red box")),
        ("a key next to a padlock", ("a key", "next to", "a padlock")),
        ("the spoon that is on the right of the pan", ("the spoon", "right of", "the pan")),
        ("the mug, larger than the other one like it", ("the mug, larger than the other one like it", "", "")),
        ('the mug with "ABOVE" printed on it', ('the mug with "ABOVE" printed on it', "", "")),
    ],
)
def test_relations_are_read_from_the_sentence(text, parsed):
    found = parse(text)
    assert (found.target, found.relation, found.anchor) == parsed


@pytest.mark.parametrize(
    ("relation", "best"), [("left of", 0), ("right of", 2), ("above", 3), ("behind", 3), ("below", 4), ("in front of", 4), ("next to", 5)]
)
def test_relations_are_measured_on_the_boxes(relation, best):
    middles = np.array([[20, 100], [100, 100], [180, 100], [100, 20], [100, 180], [118, 100]], np.float32)
    boxes = np.concatenate([middles - 8, middles + 8], axis=1)
    anchor = np.array([0.01, 0.9, 0.01, 0.01, 0.01, 0.01], np.float32)
    likely = _related(relation, boxes, anchor, _overlaps(boxes))
    order = np.argsort(-likely)
    assert order[0] == best or likely[best] > 0.8
    assert likely[1] < 0.1  # a thing is not beside itself


def test_overlapping_candidates_leave_the_best():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)
    assert _distinct(np.array([0.4, 0.8, 0.6]), _overlaps(boxes)) == [1, 2]


def test_boxes_lie_in_the_image_and_scores_fall(checkpoint):
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    found = NanoDetector(checkpoint).detect([image], ["the red mug", "a key left of the red mug"])[0]
    assert len(found) == 2
    for candidates in found:
        assert 0 < len(candidates) <= 10
        scores = [c.score for c in candidates]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= s <= 1 for s in scores)
        assert all(0 <= x <= 160 and 0 <= y <= 90 for c in candidates for x, y in (c.box[:2], c.box[2:]))


def test_no_sentence_no_work(checkpoint):
    assert NanoDetector(checkpoint).detect([np.zeros((48, 64, 3), np.uint8)], []) == [[]]


def test_a_sentence_without_a_word_is_refused(checkpoint):
    with pytest.raises(ValueError, match="needs a word"):
        NanoDetector(checkpoint).detect([np.zeros((48, 64, 3), np.uint8)], ["the mug", " ... "])


def test_what_is_asked_together_is_answered_as_alone(checkpoint):
    image = np.random.default_rng(1).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    detector = NanoDetector(checkpoint)
    together = detector.detect([image], ["the red mug", 'the very long wooden book with "HELLO" printed on it'])[0]
    alone = detector.detect([image], ["the red mug"])[0]
    for a, b in zip(together[0], alone[0], strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-5)


def test_words_are_open_and_long_sentences_are_cut():
    tokens = tokenize(["red mug", "", "word " * 60])
    assert tokens.shape[:2] == (3, MAX_WORDS)
    assert (tokens[1] == 0).all()
    assert (tokenize(["der rote Becher", "赤い カップ"])[:, :2, 0] > 0).all()
    same, other = tokenize(["Red MUG!"]), tokenize(["red mugs"])
    assert torch.equal(same[0], tokens[0, :2])
    assert not torch.equal(other[0, 1, :1], same[0, 1, :1])  # another word,
    assert torch.equal(other[0, 1, 1:3], same[0, 1, 1:3])  # but with the same beginning


def test_half_precision_safetensors_load_as_well(checkpoint, tmp_path):
    from click.testing import CliRunner

    from egoray.train.nano import main

    target = tmp_path / "detector.safetensors"
    done = CliRunner().invoke(main, ["export", checkpoint, str(target)])
    assert done.exit_code == 0, done.output
    assert target.stat().st_size < 4.2e6
    image = np.random.default_rng(2).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    full, half = (NanoDetector(str(path)).detect([image], ["the mug"])[0][0] for path in (checkpoint, target))
    assert half[0].score == pytest.approx(full[0].score, abs=0.02)


def test_what_is_no_checkpoint_says_so(tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        NanoDetector(str(tmp_path / "none.pt"))
    (tmp_path / "bad.pt").write_bytes(b"bad")
    with pytest.raises(ModelError, match="not a checkpoint"):
        NanoDetector(str(tmp_path / "bad.pt"))
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(ModelError, match="not a checkpoint"):
        NanoDetector(str(tmp_path / "bad.safetensors"))
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not the weights"):
        NanoDetector(str(tmp_path / "other.pt"))


def test_the_packaged_weights_find_things_in_rooms_they_never_saw():
    frames = []
    for number in range(5):
        world, rng = World(WorldConfig(seconds=20.0, textures="test"), [77, number]), np.random.default_rng(number)
        for frame in range(0, world.num_frames, 120):
            owners = world.owners(frame)
            boxes = np.zeros((len(world.things), 4), np.float32)
            for k in range(len(world.things)):
                if (owners == k + 1).sum() >= 100:
                    boxes[k] = tight_box(owners == k + 1)
            frames.append((world.frame(frame), trial.questions(world.things, boxes, rng)))
    detector = NanoDetector()
    answered = list(trial.ask(detector, frames))
    assert trial.average_precision(answered) > 0.6
    assert trial.false_alarms(answered, detector.threshold, ["elsewhere", "never"]) < 0.1


def test_all_that_ships_is_small_and_has_its_licence_and_card():
    folder = resources.files("egoray.models.nano")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    assert {"detector.safetensors", "LICENSE", "MODEL_CARD.md"} <= set(sizes)
    assert sum(sizes.values()) < 12e6
