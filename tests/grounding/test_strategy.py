"""The parts of a strategy, each alone, and nano's way through them: linked candidates and GrabCut."""

import numpy as np
import pytest

from egoray.core.masks import decode
from egoray.grounding.gate import confident, every_mask
from egoray.grounding.memory import alike, likeness
from egoray.grounding.proposer import Candidate, DetectorProposer, look
from egoray.grounding.sampler import every
from egoray.grounding.strategy import Strategy
from egoray.grounding.verifier import first_found, most_confident
from egoray.models.base import Detection
from egoray.models.grabcut import GrabCut
from support.clips import ArrayClip

RED, BLUE, GREY = (200, 30, 30), (30, 40, 200), (120, 120, 120)


def picture(*squares, size_hw=(90, 160)):
    image = np.full((*size_hw, 3), GREY, np.uint8)
    for (x1, y1, x2, y2), colour in squares:
        image[y1:y2, x1:x2] = colour
    return image


class Known:
    """A detector that says of each frame what it is told; a frame is known by its top left pixel."""

    name, threshold = "known", 0.3

    def __init__(self, by_frame):
        self.by_frame, self.seen = by_frame, []

    def detect(self, images, texts):
        marks = [int(image[0, 0, 0]) for image in images]
        self.seen.append(marks)
        return [[self.by_frame.get(mark, []) for _ in texts] for mark in marks]


def marked(frames):
    for t, frame in enumerate(frames):
        frame[0, 0] = t
    return ArrayClip(frames)


def found(frame, score, box=(0, 0, 4, 4), of=None):
    return Candidate(frame=frame, detection=Detection(box=box, score=score), look=of)


def test_the_sampler_takes_each_step():
    assert list(every(1)(4)) == [0, 1, 2, 3]
    assert list(every(3)(8)) == [0, 3, 6]
    assert list(every(3)(0)) == []
    with pytest.raises(ValueError, match="1 or more"):
        every(0)


def test_the_paper_starts_from_the_most_confident_and_naive_from_the_first():
    candidates = [found(2, 0.5), found(2, 0.4), found(5, 0.9), found(7, 0.9)]
    assert [c.frame for c in most_confident(candidates)] == [5]
    assert [(c.frame, c.detection.score) for c in first_found(candidates)] == [(2, 0.5)]
    assert list(most_confident([])) == list(first_found([])) == []


def test_the_proposer_looks_at_the_sampled_frames_in_batches_and_keeps_what_is_above_the_threshold():
    detector = Known({0: [Detection(box=(0, 0, 5, 5), score=0.3)], 4: [Detection(box=(1, 1, 5, 5), score=0.31)]})
    clip = marked([picture() for _ in range(6)])
    candidates = DetectorProposer(detector, batch=2).propose(clip, [0, 2, 4], ["a", "b"])
    assert detector.seen == [[0, 2], [4]]
    assert [[(c.frame, c.detection.score) for c in mine] for mine in candidates] == [[(4, 0.31)]] * 2


def test_looks_tell_colours_apart_and_forgive_light_and_size():
    image = picture(((10, 10, 30, 30), RED), ((60, 20, 100, 60), tuple(int(0.8 * c) for c in RED)), ((120, 20, 150, 50), BLUE))
    red, darker, blue = (found(0, 1, of=look(image, box)) for box in ((10, 10, 30, 30), (60, 20, 100, 60), (120, 20, 150, 50)))
    assert likeness(red, darker) > 0.9
    assert likeness(red, blue) < 0.1
    assert likeness(red, red) == pytest.approx(1, abs=1e-5)
    assert likeness(red, found(0, 1, of=look(image, (300, 300, 310, 310)))) == 0
    with pytest.raises(ValueError, match="without a look"):
        likeness(red, found(0, 1))


def test_candidates_are_linked_to_the_nearest_anchor_by_look():
    one, two = np.eye(96, dtype=np.float32)[:2]
    half = np.float32(np.sqrt([0.5, 0.5] + [0] * 94))
    candidates = [found(0, 0.9, of=two), found(1, 0.5, of=one), found(1, 0.6, of=half), found(3, 0.9, of=one), found(8, 0.9, of=two)]
    linked = alike(0.6)([candidates[3]], candidates)
    assert {frame: c.detection.score for frame, c in linked.items()} == {1: 0.5, 3: 0.9}
    assert set(alike(0.6)([candidates[0], candidates[3]], candidates)) == {0, 1, 3}


def test_gates():
    assert every_mask(0.0)
    assert [confident(0.5)(score) for score in (0.49, 0.5)] == [False, True]


def test_linked_candidates_are_cut_out_and_the_rest_of_the_clip_stays_empty():
    box = {t: (20 + 10 * t, 20, 50 + 10 * t, 50) for t in range(6)}
    clip = marked([picture((box[t], RED), ((110, 50, 140, 80), BLUE)) for t in range(6)])
    blue = Detection(box=(110, 50, 140, 80), score=0.95)
    by_frame = {t: [Detection(box=box[t], score=0.5 + 0.05 * t)] for t in (1, 2, 4)} | {5: [blue]}
    detector = Known(by_frame)
    parts = {"name": "nano", "proposer": DetectorProposer(detector, looks=True), "tracker": GrabCut()}
    parts |= {"linker": alike(), "verifier": first_found}
    (answer,) = Strategy(**parts).ground(clip, ["the red box"])
    assert set(answer.masks) == set(answer.scores) == {1, 2, 4}
    assert answer.detection == (1, by_frame[1][0])
    for t, rle in answer.masks.items():
        x1, y1, x2, y2 = box[t]
        mask = decode(rle)
        assert mask[y1:y2, x1:x2].mean() > 0.7
        assert mask.sum() == mask[y1:y2, x1:x2].sum()
    (answer,) = Strategy(**parts, gate=confident(0.58)).ground(clip, ["the red box"])
    assert (set(answer.masks), set(answer.scores)) == ({2, 4}, {1, 2, 4})


def test_a_sentence_without_a_word_is_refused():
    with pytest.raises(ValueError, match="needs a word"):
        Strategy(name="n", proposer=DetectorProposer(Known({})), tracker=GrabCut()).ground(marked([picture()]), ["..."])


def test_a_stream_tells_each_frame_and_ends_with_what_ground_gives():
    box = (20.0, 20.0, 60.0, 60.0)
    clip = marked([picture(((20, 20, 60, 60), RED)) for _ in range(3)])
    detector = Known({t: [Detection(box=box, score=0.5 + t / 10)] for t in range(3)})
    grounder = Strategy(name="s", proposer=DetectorProposer(detector, looks=True), tracker=GrabCut(), linker=alike(), gate=confident(0.55))
    told = list(grounder.stream(clip, ["a", "b"]))
    answers = grounder.ground(clip, ["a", "b"])
    assert [(j.text_index, j.frame) for j in told] == [(n, t) for t in range(3) for n in range(2)]
    for n, answer in enumerate(answers):
        assert {j.frame: j.score for j in told if j.text_index == n} == answer.scores
        assert {j.frame: j.mask for j in told if j.text_index == n and j.mask} == answer.masks
    assert sorted(answers[0].masks) == [1, 2]
