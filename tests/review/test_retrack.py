"""Masks taken further by SAM 2 itself (random weights in the published layout): what it is told, and what it may not touch."""

import numpy as np
import pytest

from egoray.core.masks import decode, encode
from egoray.models.sam2_engine import Sam2Engine
from egoray.review.annotations import Annotations
from egoray.review.frames import Frames
from egoray.review.retrack import Engine, masks_of
from support.annotated import write_annotated
from support.release import SIZE_HW, disc
from support.stock_sam2 import PUBLISHED, write_lively


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    checkpoint = write_lively(tmp_path_factory.mktemp("sam2") / "narrow.pt", **PUBLISHED)
    return Engine(Sam2Engine(checkpoint, "cpu"), Frames(), takes_clicks=True)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    found = Annotations(write_annotated(tmp_path_factory.mktemp("annotated"), clips=1))
    item = next(i for i in found.queue(plant=0) if i.object_id == "1")
    return found.subject(item.id)


def test_clicks_and_boxes_reach_the_model(engine, subject):
    ask = {"outside": [], "box": None, "before": None}
    here, there = (engine.segment(subject, 4, inside=[point], **ask) for point in ((20.0, 30.0), (80.0, 60.0)))
    boxed = engine.segment(subject, 4, inside=[], **ask | {"box": (10.0, 10.0, 40.0, 40.0)})
    assert {m.size for m in (here, there, boxed)} == {SIZE_HW}
    assert len({here.counts, there.counts, boxed.counts}) == 3


@pytest.mark.parametrize(("back", "frames"), [(False, [16, 17, 18, 20, 21, 22]), (True, [13, 14])])
def test_it_follows_within_the_appearance_and_its_boxes_and_spares_the_verified(engine, subject, back, frames):
    verified = masks_of(subject, {15: encode(disc(15, 0)[0])}, {15, 19, 3})
    found = engine.follow(subject, 15, verified, back=back)
    assert sorted(found) == frames
    for frame, rle in found.items():
        x, y, width, height = (int(v) for v in disc(frame, 0)[1])
        outside = decode(rle)
        outside[y : y + height, x : x + width] = False
        assert not outside.any()


def test_what_was_verified_is_what_is_followed(engine, subject):
    one = engine.follow(subject, 15, {15: encode(disc(15, 0)[0])})
    other = engine.follow(subject, 15, {15: encode(np.roll(disc(15, 0)[0], 7, axis=1))})
    told = engine.follow(subject, 15, {15: encode(disc(15, 0)[0]), 18: encode(np.zeros(SIZE_HW, bool))})
    assert one.keys() == other.keys() == told.keys() | {18}
    assert one != other
    assert any(one[f] != told[f] for f in (19, 20, 21, 22))


def test_an_object_without_any_mask_has_empty_ones_to_stand_for(subject):
    assert not decode(masks_of(subject, {}, {10})[10]).any()
    with pytest.raises(ValueError, match="no appearance here"):
        Engine(None, Frames(), takes_clicks=True).follow(subject, 11, {})
    with pytest.raises(ValueError, match="correct or lock this frame first"):
        Engine(None, Frames(), takes_clicks=True).follow(subject, 15, {})
