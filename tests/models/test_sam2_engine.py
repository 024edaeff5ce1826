"""The SAM 2 engine against the package's own predictor on the same weights and frames, and what only the engine promises."""

import dataclasses
import gc

import numpy as np
import pytest
import torch

from egoray.errors import ModelError
from egoray.models.base import Prompt, TrackRequest
from egoray.models.sam2_engine import Sam2Engine
from egoray.models.sam2_memory import Recall, StockMemory, stored_bytes
from egoray.models.sam2_session import Settings
from support.stock_sam2 import PUBLISHED, SAM_2_0, load_stock, write_lively

FAMILIES = {"sam2.1": PUBLISHED, "sam2": PUBLISHED | SAM_2_0}
BOXES = {str(i): (20.0 + 9 * i, 15.0 + 4 * i, 50.0 + 10 * i, 45.0 + 6 * i) for i in range(5)}
NUM_FRAMES = 40


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    return write_lively(tmp_path_factory.mktemp(request.param) / "narrow.pt", **FAMILIES[request.param])


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return write_lively(tmp_path_factory.mktemp("narrow") / "narrow.pt", **PUBLISHED)


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 200, (24, 32, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    frames = []
    for i in range(NUM_FRAMES):
        frame = np.roll(ground, (i, 2 * i), (0, 1)).copy()
        frame[15 + i : 45 + i, 20 + i : 50 + i] = (220, 30, 40)
        frame[40:60, 90 - 2 * i : 110 - 2 * i] = (20, 40, 220)
        frames.append(frame)
    return frames


def request(key, prompts, start=0, stop=NUM_FRAMES):
    return TrackRequest(key=key, start=start, stop=stop, prompts=prompts, boxes={})


def both_ways(clip):
    return enumerate(clip), lambda start, stop: ((f, clip[f]) for f in reversed(range(start, stop)))


def collect(results):
    masks = {}
    for frame, found in results:
        for key, mask in found.items():
            assert (key, frame) not in masks
            masks[key, frame] = mask
    return masks


def stock_session(checkpoint, clip, **changes):
    predictor = load_stock(checkpoint, **changes)
    return predictor, predictor.init_state(clip)


def add_box(predictor, state, key, frame, box):
    predictor.add_new_points_or_box(state, frame, key, box=np.array(box, np.float32))


def assert_same(masks, predictor, state, video_logits, tolerance=1e-4):
    """Each of our masks against the predictor's: low-res logits, and pixels where the logit is not on the edge."""
    assert masks
    for (key, frame), ours in masks.items():
        np.testing.assert_allclose(ours.logits, predictor.low_res(state, key, frame), rtol=0, atol=tolerance, err_msg=f"{key}@{frame}")
        theirs = video_logits[frame][key]
        clear = np.abs(theirs) >= 1e-3
        np.testing.assert_array_equal(ours.mask[clear], (theirs > 0)[clear], err_msg=f"{key}@{frame}")


@pytest.mark.parametrize("keys", [["0"], list(BOXES)], ids=["one", "five"])
def test_each_object_gets_the_predictors_masks(checkpoint, clip, keys):
    predictor, state = stock_session(checkpoint, clip)
    for key in keys:
        add_box(predictor, state, key, 0, BOXES[key])
    video_logits = predictor.propagate(state)
    engine = Sam2Engine(checkpoint, settings=Settings(objects_at_once=1))
    masks = collect(engine.track(enumerate(clip), [request(k, {0: Prompt(box=BOXES[k])}) for k in keys]))
    assert set(masks) == {(k, f) for k in keys for f in range(NUM_FRAMES)}
    assert 0.02 < np.mean([m.mask.mean() for m in masks.values()]) < 0.98
    assert_same(masks, predictor, state, video_logits)


def test_objects_in_one_batch_get_the_masks_they_get_alone(checkpoint, clip):
    alone = Sam2Engine(checkpoint, settings=Settings(objects_at_once=1))
    batched = Sam2Engine(checkpoint, settings=Settings(objects_at_once=8))
    requests = [request(k, {0: Prompt(box=b)}) for k, b in BOXES.items()]
    apart, together = (collect(engine.track(enumerate(clip), requests)) for engine in (alone, batched))
    assert apart.keys() == together.keys()
    for (key, frame), mask in together.items():
        if frame <= 1:
            np.testing.assert_allclose(mask.logits, apart[key, frame].logits, rtol=0, atol=1e-4)
        inter, union = (mask.mask & apart[key, frame].mask).sum(), (mask.mask | apart[key, frame].mask).sum()
        assert inter >= 0.999 * union, (key, frame)
    assert batched.encoded_frames == NUM_FRAMES


def test_an_object_added_later(checkpoint, clip):
    predictor, state = stock_session(checkpoint, clip)
    add_box(predictor, state, "0", 0, BOXES["0"])
    before = predictor.propagate(state, max_frame_num_to_track=9)
    add_box(predictor, state, "1", 10, BOXES["1"])
    video_logits = before | predictor.propagate(state, start_frame_idx=10)
    requests = [request("0", {0: Prompt(box=BOXES["0"])}), request("1", {10: Prompt(box=BOXES["1"])}, start=10)]
    masks = collect(Sam2Engine(checkpoint, settings=Settings(objects_at_once=1)).track(enumerate(clip), requests))
    assert [f for k, f in masks if k == "1"] == list(range(10, NUM_FRAMES))
    assert_same(masks, predictor, state, video_logits)


def test_an_object_prompted_again_and_one_that_leaves(checkpoint, clip):
    predictor, state = stock_session(checkpoint, clip)
    add_box(predictor, state, "0", 0, BOXES["0"])
    before = predictor.propagate(state, max_frame_num_to_track=19)
    add_box(predictor, state, "0", 20, BOXES["3"])
    video_logits = before | predictor.propagate(state, start_frame_idx=20)
    prompts = {0: Prompt(box=BOXES["0"]), 20: Prompt(box=BOXES["3"])}
    requests = [request("0", prompts), request("short", {3: Prompt(box=BOXES["1"])}, start=3, stop=7)]
    masks = collect(Sam2Engine(checkpoint, settings=Settings(objects_at_once=1)).track(enumerate(clip), requests))
    assert [f for k, f in masks if k == "short"] == [3, 4, 5, 6]
    assert_same({k: m for k, m in masks.items() if k[0] == "0"}, predictor, state, video_logits)


@pytest.mark.parametrize("stays", [True, False])
def test_a_correction_click(checkpoint, clip, stays):
    points, labels = ((70.0, 50.0), (40.0, 60.0)), (1, 0)
    predictor, state = stock_session(checkpoint, clip, add_all_frames_to_correct_as_cond=stays)
    add_box(predictor, state, "0", 0, BOXES["0"])
    before = predictor.propagate(state, max_frame_num_to_track=20)
    _, _, shown = predictor.add_new_points_or_box(state, 20, "0", points=np.array(points, np.float32), labels=np.array(labels, np.int32))
    # Where a correction does not stay, the predictor would track its frame again and forget it, if started there.
    after = predictor.propagate(state, start_frame_idx=20 if stays else 21)
    session = Sam2Engine(checkpoint, settings=Settings(corrections_stay=stays)).session(clip[0].shape[:2], NUM_FRAMES)
    masks = {}
    for frame, image in enumerate(clip):
        masks["0", frame] = session.step(frame, image, {"0": Prompt(box=BOXES["0"])} if frame == 0 else {})["0"]
        if frame == 20:
            uncorrected = masks["0", 20]
            masks["0", 20] = session.correct("0", Prompt(points=points, labels=labels))
    assert np.abs(masks["0", 20].logits - uncorrected.logits).max() > 1e-2
    assert_same(masks, predictor, state, before | {20: {"0": shown[0, 0].numpy()}} | after)


def test_a_click_and_a_mask_as_first_prompts(checkpoint, clip):
    mask = np.zeros(clip[0].shape[:2], bool)
    mask[15:45, 22:48] = True
    predictor, state = stock_session(checkpoint, clip)
    predictor.add_new_points_or_box(state, 0, "click", points=np.array([[35, 30]], np.float32), labels=np.array([1], np.int32))
    predictor.add_new_mask(state, 0, "mask", mask)
    video_logits = predictor.propagate(state)
    requests = [request("click", {0: Prompt(points=((35.0, 30.0),), labels=(1,))}), request("mask", {0: Prompt(mask=mask)})]
    masks = collect(Sam2Engine(checkpoint, settings=Settings(objects_at_once=1)).track(enumerate(clip), requests))
    assert_same(masks, predictor, state, video_logits)


def test_backward_from_the_last_frame(checkpoint, clip):
    predictor, state = stock_session(checkpoint, clip)
    add_box(predictor, state, "0", NUM_FRAMES - 1, BOXES["4"])
    video_logits = predictor.propagate(state, reverse=True)
    engine = Sam2Engine(checkpoint)
    frames, backward = both_ways(clip)
    masks = collect(engine.track(frames, [request("0", {NUM_FRAMES - 1: Prompt(box=BOXES["4"])})], backward))
    assert len(masks) == NUM_FRAMES
    assert_same(masks, predictor, state, video_logits)
    assert engine.encoded_frames == NUM_FRAMES


def test_both_ways_from_the_middle(checkpoint, clip):
    predictor, state = stock_session(checkpoint, clip)
    add_box(predictor, state, "0", 20, BOXES["3"])
    video_logits = predictor.propagate(state)
    video_logits |= predictor.propagate(state, start_frame_idx=20, reverse=True)
    engine = Sam2Engine(checkpoint)
    frames, backward = both_ways(clip)
    results = list(engine.track(frames, [request("0", {20: Prompt(box=BOXES["3"])})], backward))
    assert [f for f, found in results if found] == [*range(20, NUM_FRAMES), *reversed(range(20))]
    assert_same(collect(results), predictor, state, video_logits)
    assert engine.encoded_frames == NUM_FRAMES


def test_a_fresh_return_is_a_run_of_its_own(checkpoint, clip):
    """As the released Grounded-SAM2 does it: the frames up to the prompt are reversed and tracked as another video."""
    predictor, state = stock_session(checkpoint, clip[20::-1])
    add_box(predictor, state, "0", 0, BOXES["3"])
    apart = predictor.propagate(state)
    found = {}
    for fresh in (True, False):
        frames, backward = both_ways(clip)
        engine = Sam2Engine(checkpoint, settings=Settings(fresh_return=fresh))
        results = list(engine.track(frames, [request("0", {20: Prompt(box=BOXES["3"])})], backward))
        found[fresh] = {frame: masks["0"].logits for frame, masks in results if frame < 20 and masks}
    for frame, logits in found[True].items():
        np.testing.assert_allclose(logits, predictor.low_res(state, "0", 20 - frame), atol=1e-4)
    assert len(apart) == len(found[True]) + 1
    assert max(np.abs(found[True][f] - found[False][f]).max() for f in range(20)) > 1e-3


@pytest.mark.parametrize(("reused", "encoded"), [(None, 40), (10, 35 + 39 - 10), (0, 35 + 39)])
def test_what_was_encoded_on_the_way_forward_serves_the_way_back(narrow, clip, reused, encoded):
    engine = Sam2Engine(narrow, reuse_frames=reused)
    frames, backward = both_ways(clip)
    requests = [request(str(i), {at: Prompt(box=BOXES[str(i)])}, start=2 * i) for i, at in enumerate((5, 30, 39))]
    masks = collect(engine.track(frames, requests, backward))
    assert {k: sum(key == k for key, _ in masks) for k in "012"} == {"0": 40, "1": 38, "2": 36}
    assert engine.encoded_frames == encoded
    if reused == 0:
        again = collect(Sam2Engine(narrow).track(both_ways(clip)[0], requests, backward))
        assert all((masks[at].mask == again[at].mask).all() for at in masks)


def test_the_references_memory_is_what_the_engine_must_get_right(narrow, clip):
    """A memory policy that is off by one frame is far outside the tolerance: the parity tests see what is remembered."""

    class Stale(StockMemory):
        def recall(self, past, now, num_masks, num_pointers):
            recall = super().recall(past, now, num_masks, num_pointers)
            return Recall([(place, e) for place, e in recall.masks if place != 0], recall.pointers)

    requests = [request("0", {0: Prompt(box=BOXES["0"])})]
    right, stale = (
        collect(Sam2Engine(narrow, settings=Settings(policy=policy)).track(enumerate(clip), requests))
        for policy in (StockMemory(), Stale())
    )
    assert np.abs(right["0", 1].logits - stale["0", 1].logits).max() < 1e-4
    assert np.median([np.abs(right[k].logits - stale[k].logits).max() for k in right if k[1] > 1]) > 1e-2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_full_size_tiny_network(tmp_path):
    """Random weights at 1024 px, two objects, twelve frames: minutes on a CPU."""
    from importlib import resources

    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(str(resources.files("sam2") / "configs" / "sam2.1" / "sam2.1_hiera_t.yaml"))
    torch.manual_seed(0)
    model = instantiate(config.model, _recursive_=True)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 2.0)
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pt")
    OmegaConf.save(config, tmp_path / "tiny.yaml")
    checkpoint = str(tmp_path / "tiny.pt")
    torch.set_num_threads(2)
    rng = np.random.default_rng(1)
    clip = [rng.integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1) for _ in range(12)]
    boxes = {"a": (100.0, 80.0, 220.0, 200.0), "b": (300.0, 100.0, 420.0, 300.0)}
    predictor, state = stock_session(checkpoint, clip)
    for key, box in boxes.items():
        add_box(predictor, state, key, 0, box)
    video_logits = predictor.propagate(state)
    engine = Sam2Engine(checkpoint, settings=Settings(objects_at_once=1))
    requests = [request(k, {0: Prompt(box=b)}, stop=12) for k, b in boxes.items()]
    assert_same(collect(engine.track(enumerate(clip), requests, num_frames=12)), predictor, state, video_logits)


def test_a_session_goes_on_elsewhere_with_equal_masks(checkpoint, clip):
    engine = Sam2Engine(checkpoint)
    session = engine.session(clip[0].shape[:2])
    for frame, image in enumerate(clip[:20]):
        session.step(frame, image, {"0": Prompt(box=BOXES["0"])} if frame == 0 else {"1": Prompt(box=BOXES["1"])} if frame == 12 else {})
    elsewhere = Sam2Engine(checkpoint).restore(session.save())
    for frame, image in enumerate(clip[20:], start=20):
        here, there = session.step(frame, image), elsewhere.step(frame, image)
        assert list(here) == list(there) == ["0", "1"]
        for key in here:
            np.testing.assert_array_equal(here[key].logits, there[key].logits)
    assert len(session.save()) < 4_000_000


def test_memory_stays_what_it_was_after_the_first_frames(narrow, clip):
    engine = Sam2Engine(narrow)
    session = engine.session(clip[0].shape[:2])
    held = []
    for frame in range(60):
        session.step(frame, clip[frame % NUM_FRAMES], {"0": Prompt(box=BOXES["0"])} if frame == 0 else {})
        held.append(stored_bytes(session.objects["0"]))
    assert held[-1] == held[16] == max(held)
    past = session.objects["0"]
    assert len(past) == 1 + 15
    assert sum(e.tokens is not None for e in past) == 1 + 6
    gc.collect()
    assert sum(e.tokens.untyped_storage().nbytes() for e in past if e.tokens is not None) == 7 * 256 * 64 * 2


def test_prompts_without_end_are_bounded_too(narrow, clip):
    session = Sam2Engine(narrow, settings=Settings(policy=StockMemory(max_prompted=3))).session(clip[0].shape[:2])
    for frame, image in enumerate(clip[:12]):
        session.step(frame, image, {"0": Prompt(box=BOXES["0"])} if frame % 2 == 0 else {})
    assert [e.frame for e in session.objects["0"] if e.prompted] == [0, 8, 10]


def test_frames_without_an_object_are_not_encoded(narrow, clip):
    engine = Sam2Engine(narrow, encode_batch=3)
    requests = [request("a", {3: Prompt(box=BOXES["0"])}, start=3, stop=6), request("b", {20: Prompt(box=BOXES["1"])}, start=20, stop=22)]
    results = list(engine.track(enumerate(clip), requests))
    assert [f for f, _ in results] == list(range(NUM_FRAMES))
    assert {f: sorted(found) for f, found in results if found} == {3: ["a"], 4: ["a"], 5: ["a"], 20: ["b"], 21: ["b"]}
    assert engine.encoded_frames == 5


def test_encoding_in_batches_changes_nothing(narrow, clip):
    requests = [request(k, {int(k): Prompt(box=BOXES[k])}, start=int(k)) for k in ("0", "2")]
    one, four = (collect(Sam2Engine(narrow, encode_batch=n).track(enumerate(clip), requests)) for n in (1, 4))
    for key, mask in one.items():
        np.testing.assert_allclose(mask.logits, four[key].logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_compiling_changes_nothing(narrow, clip):
    requests = [request(k, {int(k): Prompt(box=BOXES[k])}, start=int(k), stop=12) for k in ("0", "2")]
    plain, compiled = (collect(Sam2Engine(narrow, compile=c, encode_batch=2).track(enumerate(clip[:12]), requests)) for c in (False, True))
    assert plain.keys() == compiled.keys()
    for key, mask in plain.items():
        np.testing.assert_allclose(mask.logits, compiled[key].logits, rtol=0, atol=1e-3)


def test_no_requests_and_no_frames(narrow, clip):
    engine = Sam2Engine(narrow)
    assert list(engine.track(enumerate(clip[:2]), [])) == [(0, {}), (1, {})]
    assert list(engine.track([], [])) == []
    assert engine.encoded_frames == 0


def test_options_change_the_masks_and_only_as_they_say(narrow, clip):
    requests = [request(k, {0: Prompt(box=BOXES[k])}, stop=5) for k in ("0", "1")]
    apart = collect(Sam2Engine(narrow, settings=Settings(non_overlapping=True)).track(enumerate(clip[:5]), requests))
    free = collect(Sam2Engine(narrow).track(enumerate(clip[:5]), requests))
    overlaps = 0
    for frame in range(5):
        a, b = (apart[k, frame].mask for k in ("0", "1"))
        assert not (a & b).any()
        np.testing.assert_array_equal(a | b, free["0", frame].mask | free["1", frame].mask)
        overlaps += (free["0", frame].mask & free["1", frame].mask).sum()
    assert overlaps > 0


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([request("a", {0: Prompt(box=BOXES["0"])}), request("a", {1: Prompt(box=BOXES["0"])})], "two requests"),
        ([request("a", {})], "needs a prompt"),
        ([request("a", {50: Prompt(box=BOXES["0"])})], "needs a prompt"),
        ([request("a", {4: Prompt(box=BOXES["0"])})], "give `backward`"),
        ([request("a", {0: Prompt(box=(500.0, 10.0, 600.0, 20.0))})], "no area inside the frame"),
        ([request("a", {0: Prompt(points=((500.0, 10.0),), labels=(1,))})], "outside the frame"),
        ([request("a", {0: Prompt(mask=np.ones((3, 3), bool))})], "mask prompt"),
        ([request("a", {7: Prompt(box=BOXES["0"])}, start=7)], "was not among the frames"),
    ],
)
def test_impossible_requests_say_why(narrow, clip, requests, message):
    with pytest.raises(ValueError, match=message):
        list(Sam2Engine(narrow).track(enumerate(clip[:5]), requests))


def test_a_frame_of_another_size(narrow, clip):
    with pytest.raises(ModelError, match=r"frame 1 is 60x50, those before it are 128x96"):
        list(Sam2Engine(narrow).track([(0, clip[0]), (1, clip[1][:50, :60])], [request("a", {0: Prompt(box=BOXES["0"])})]))


def test_sessions_refuse_what_they_cannot_do(narrow, clip, checkpoint):
    engine = Sam2Engine(narrow)
    session = engine.session(clip[0].shape[:2])
    with pytest.raises(ValueError, match="stepped last"):
        session.correct("a", Prompt(box=BOXES["0"]))
    session.step(0, clip[0], {"a": Prompt(box=BOXES["0"])})
    with pytest.raises(ValueError, match="tracked already"):
        session.adopt("a", [])
    state = session.save()
    with pytest.raises(ModelError, match="cut short"):
        engine.restore(state[: len(state) // 2])
    with pytest.raises(ModelError, match="not a saved tracking session"):
        engine.restore(b"")


def test_a_session_of_another_network_is_refused(narrow, clip, tmp_path):
    session = Sam2Engine(narrow).session(clip[0].shape[:2])
    session.step(0, clip[0], {"a": Prompt(box=BOXES["0"])})
    other = write_lively(tmp_path / "other.pt", image_size=128)
    with pytest.raises(ModelError, match="of another network"):
        Sam2Engine(other).restore(session.save())


@pytest.mark.parametrize(
    "content",
    [{}, {"points": ((1.0, 2.0),)}, {"points": ((1.0, 2.0),), "labels": (7,)}, {"box": BOXES["0"], "mask": np.ones((2, 2), bool)}],
)
def test_a_prompt_that_says_nothing_or_too_much(content):
    with pytest.raises(ValueError, match="prompt"):
        Prompt(**content)


def test_settings_are_values():
    assert Settings() == dataclasses.replace(Settings(fill_holes=3), fill_holes=0)
