"""Which objects come first: each sign of doubt on masks made to show it, and the queue over a whole folder."""

import numpy as np
import pytest

from egoray.core.masks import ellipse_inside, encode
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS, masklet_rows, write_expressions
from egoray.review.annotations import Annotations
from egoray.review.clicks import segment
from egoray.review.doubts import doubts
from egoray.schema import Expression, Masklet
from support.annotated import masklet, track, write_annotated
from support.release import SIZE_HW

BOX = (20.0, 10.0, 60.0, 50.0)
GOOD = encode(ellipse_inside(BOX, (72, 96)))


def full():
    mask = np.zeros((72, 96), bool)
    mask[10:50, 20:60] = True
    return encode(mask)


def half():
    return encode(ellipse_inside((20, 10, 60, 22), (72, 96)))


def found(masks, scores=None, boxes=None):
    return doubts(boxes or dict.fromkeys(range(20), BOX), masks, scores or dict.fromkeys(masks, 1.0))


def test_a_calm_object_raises_no_doubt():
    calm = found(dict.fromkeys(range(20), GOOD))
    assert calm.hardness < 0.3
    assert calm.reasons == ()
    assert calm.frames.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("changed", "scores", "sign", "worst"),
    [
        ({}, {7: 0.1, 8: 0.1}, "low score", {7, 8}),
        ({7: half(), 12: half()}, {}, "flicker", {7, 12}),
        (dict.fromkeys(range(20), full()), {}, "clipped", None),
        ({7: None, 8: None}, {}, "no mask", {7, 8}),
    ],
)
def test_each_sign_is_named_and_its_frames_are_the_worst(changed, scores, sign, worst):
    masks = {f: rle for f, rle in (dict.fromkeys(range(20), GOOD) | changed).items() if rle}
    doubtful = found(masks, dict.fromkeys(masks, 1.0) | scores)
    assert doubtful.reasons == (sign,)
    assert doubtful.hardness > 0.6
    if worst:
        assert set(np.argsort(-doubtful.values)[: len(worst)].tolist()) == worst


def test_an_object_without_anything_is_the_hardest():
    nothing = doubts({}, {}, {})
    assert (nothing.hardness, nothing.reasons, nothing.frames.size) == (1.0, ("no mask",), 0)


@pytest.fixture
def work(tmp_path):
    return write_annotated(tmp_path, titles=("red cup", "green lid"))


def test_the_queue_is_hardest_first_and_the_same_every_time(work):
    folder = Folder(work)
    lost = masklet("clip-1", 1)
    lost = Masklet(video_id="clip-1", object_id="2", masks=dict(list(lost.masks.items())[:4]), scores=dict.fromkeys(lost.masks, 0.5))
    rows = masklet_rows(masklet("clip-1", 0), track("clip-1", 0, "")[0].boxes) + masklet_rows(lost, track("clip-1", 1, "")[0].boxes)
    (folder / "masklets").write_rows("clip-1.parquet", rows, MASKLETS)
    queue = Annotations(work).queue(double=0.5, plant=0)
    assert (queue[0].video_id, queue[0].object_id) == ("clip-1", "2")
    assert "no mask" in queue[0].reasons
    assert [item.place for item in queue] == sorted((item.place for item in queue), reverse=True)
    assert Annotations(work).queue(double=0.5, plant=0) == queue


def test_a_sentence_in_doubt_makes_an_object_harder(work):
    before = {item.id: item for item in Annotations(work).queue()}
    about = {"video_id": "clip-0", "object_id": "1", "kind": "short", "source": "test"}
    write_expressions(Folder(work) / "expressions", "u", [Expression(expression_id="e", text="it", review="true of object 2 too", **about)])
    after = {item.id: item for item in Annotations(work).queue()}
    (changed,) = [i for i in after if i in before and after[i].data_version != before[i].data_version and not after[i].planted]
    assert (after[changed].video_id, after[changed].object_id) == ("clip-0", "1")
    assert after[changed].place > before[changed].place
    assert after[changed].reasons[-1] == "sentence in doubt"


def test_other_masks_are_other_data(work):
    before = {item.id: item.data_version for item in Annotations(work).queue(plant=0)}
    folder = Folder(work)
    rows = [row for n in (0, 1) for row in masklet_rows(masklet("clip-0", n, 0.7 if n else 1.0), track("clip-0", n, "")[0].boxes)]
    (folder / "masklets").write_rows("clip-0.parquet", rows, MASKLETS)
    after = {item.id: item.data_version for item in Annotations(work).queue(plant=0)}
    assert sum(before[i] != after[i] for i in before) == 1


def test_the_shares_are_about_what_was_asked_for(tmp_path):
    queue = Annotations(write_annotated(tmp_path, clips=30)).queue(double=0.3, plant=0.2)
    real = [item for item in queue if not item.planted]
    assert len(real) == 60
    assert 8 <= sum(item.required == 2 for item in real) <= 28
    assert 4 <= len(queue) - len(real) <= 20
    assert {item.id for item in queue if item.planted}.isdisjoint(item.id for item in real)


def scene():
    """A red and a green disc on grey noise, apart; where they are."""
    image = np.random.default_rng(0).integers(90, 150, (*SIZE_HW, 3), dtype=np.uint8)
    first, second = ellipse_inside((10, 20, 36, 46), SIZE_HW), ellipse_inside((50, 20, 80, 50), SIZE_HW)
    image[first], image[second] = (220, 40, 40), (40, 200, 60)
    return image, first, second


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_clicks_take_what_is_under_them_and_leave_what_is_beside():
    image, first, second = scene()
    assert overlap(segment(image, inside=[(23, 33)], outside=[], box=None, before=None), first) > 0.85
    both = first | second
    assert overlap(segment(image, inside=[(23, 33)], outside=[(65, 35)], box=None, before=both), first) > 0.85
    assert overlap(segment(image, inside=[(65, 35)], outside=[], box=None, before=first), both) > 0.85
    assert overlap(segment(image, inside=[], outside=[], box=(48, 18, 82, 52), before=None), second) > 0.85


def test_nothing_to_start_from_is_said():
    image, _, _ = scene()
    with pytest.raises(ValueError, match="click on the object, or draw a box"):
        segment(image, inside=[], outside=[(3, 3)], box=None, before=np.zeros(SIZE_HW, bool))
