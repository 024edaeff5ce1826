"""The synthetic scene: its statistics are EgoMask's, its truth is what the picture shows, and a seed says everything."""

from itertools import pairwise

import numpy as np
import pytest

from egoray.synthetic.surfaces import TEXTURES
from egoray.synthetic.world import MIN_VISIBLE_PX, World, WorldConfig, tight_box

STILL = {"light": 0.0, "noise": 0.0, "shutter_s": 0.0}


def statistics(config, num_clips, seed=0):
    """Means over objects on the 1 fps grid: presence, area, adjacent IoU (both present), trajectories, their length in s."""
    rows = []
    for clip in range(num_clips):
        world = World(config, (seed, clip))
        frames = [world.masks(i) for i in range(0, world.num_frames, config.fps)]
        for item in world.objects:
            masks = [frame.get(item.object_id) for frame in frames]
            present = np.array([mask is not None for mask in masks])
            if not present.any():
                continue
            area = np.mean([mask.mean() for mask in masks if mask is not None])
            pairs = [(a, b) for a, b in pairwise(masks) if a is not None and b is not None]
            iou = np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]) if pairs else np.nan
            starts = np.flatnonzero(np.diff(np.r_[0, present]) == 1)
            rows.append((present.mean(), area, iou, len(starts), present.sum() / len(starts)))
    return dict(zip(("presence", "area", "iou", "trajectories", "length_s"), np.nanmean(rows, axis=0), strict=True))


def test_default_clips_have_the_statistics_of_the_training_set():
    measured = statistics(WorldConfig(), 20)
    for name, published in {"presence": 0.22, "area": 0.012, "iou": 0.15, "length_s": 4.8}.items():
        assert published / 1.5 <= measured[name] <= published * 1.5, measured
    assert 1.9 <= measured["trajectories"] <= 4.1, measured


def test_exocentric_clips_are_steady():
    measured = statistics(WorldConfig.exocentric(), 6)
    assert measured["presence"] > 0.9
    assert 0.06 / 1.5 <= measured["area"] <= 0.06 * 1.5
    assert measured["iou"] > 0.6


@pytest.mark.parametrize(
    ("knobs", "name", "more"),
    [
        ({"presence": 0.45}, "presence", True),
        ({"area_fraction": 0.03}, "area", True),
        ({"jerk_deg": 1.0, "sway_deg": 0.3}, "iou", True),
        ({"trajectories_per_min": 1.4}, "trajectories", False),
    ],
)
def test_a_knob_turns_its_statistic(knobs, name, more):
    usual, turned = (statistics(WorldConfig(**k), 8, seed=3)[name] for k in ({}, knobs))
    assert turned > 1.2 * usual if more else turned < usual / 1.2


def test_the_truth_is_what_the_picture_shows():
    """Painted white and then black, an object changes the picture by more than half exactly where its mask is."""
    config = WorldConfig(**STILL, seconds=20, hands_per_min=30)
    seen = 0
    for clip in range(3):
        world = World(config, (5, clip))
        for index in range(0, world.num_frames, 40):
            masks = world.masks(index)
            for item in world.objects:
                sprite = world._sprites[int(item.object_id) - 1]
                painted = []
                for grey in (255, 0):
                    sprite.pictures = [np.full_like(picture, grey) for picture in sprite.pictures]
                    painted.append(world.frame(index).astype(int).min(axis=2))
                change = painted[0] - painted[1]
                mask = masks.get(item.object_id, np.zeros(config.size_hw, bool))
                if not mask.any():
                    assert np.count_nonzero(change > 135) < MIN_VISIBLE_PX
                    continue
                seen += 1
                assert change[mask].min() > 90
                assert change[~mask].max() < 165
    assert seen > 20


def test_masks_are_disjoint_and_their_boxes_tight():
    world = World(WorldConfig(seconds=20), 11)
    for index in range(0, world.num_frames, 6):
        masks = world.masks(index)
        assert np.all(sum((mask.astype(int) for mask in masks.values()), np.zeros(world.config.size_hw, int)) <= 1)
        for mask in masks.values():
            assert mask.sum() >= MIN_VISIBLE_PX
            x1, y1, x2, y2 = (int(v) for v in tight_box(mask))
            ys, xs = np.nonzero(mask)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)


def test_frames_come_out_the_same_in_any_order():
    config = WorldConfig(seconds=10)
    one, other = World(config, (1, 2)), World(config, (1, 2))
    order = [250, 3, 120, 3]
    frames = {index: one.frame(index) for index in order}
    for index in sorted(frames):
        assert np.array_equal(frames[index], other.frame(index))
        assert frames[index].shape == (360, 640, 3)
        assert frames[index].dtype == np.uint8
    assert not np.array_equal(frames[3], World(config, (1, 3)).frame(3))


def test_objects_leave_and_come_back_and_look_alikes_are_about():
    config = WorldConfig(distractors_per_object=3.0)
    world = World(config, 4)
    assert [item.object_id for item in world.objects] == [str(k + 1) for k in range(len(world.objects))]
    titles = {item.attributes.title for item in world.objects}
    assert any(other.title in titles for other in world.others)
    assert len({item.attributes.looks() for item in world.objects}) == len(world.objects)


@pytest.mark.parametrize("size_hw", [(72, 128), (360, 480), (540, 960)])
def test_any_size(size_hw):
    world = World(WorldConfig(seconds=2, size_hw=size_hw), 0)
    assert world.frame(30).shape == (*size_hw, 3)


@pytest.mark.parametrize(
    "knobs", [{"presence": 0.0}, {"seconds": 0}, {"num_objects": (2, 1)}, {"shapes": ("mug", "unicorn")}, {"shapes": ("mug",)}]
)
def test_a_senseless_knob_is_refused(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        WorldConfig(**knobs)


def test_a_crowded_room_is_refused():
    with pytest.raises(ValueError, match="places"):
        World(WorldConfig(num_clutter=100), 0)


@pytest.mark.parametrize("index", [-1, 60])
def test_a_frame_beyond_the_clip_is_refused(index):
    world = World(WorldConfig(seconds=2), 0)
    with pytest.raises(IndexError, match="clip of 60"):
        world.frame(index)
    with pytest.raises(IndexError, match="clip of 60"):
        world.masks(index)


def test_texture_sets_to_train_and_to_try_on_share_nothing():
    for name in ("walls", "tops", "fronts", "wall_kinds", "top_kinds", "hung", "laid"):
        train, test, every = (set(getattr(TEXTURES[key], name)) for key in ("train", "test", "all"))
        assert train
        assert test
        assert not train & test, name
        if name.endswith(("kinds", "hung", "laid")):
            assert train | test == every, name


def test_texture_sets_change_the_room_and_not_what_happens_in_it():
    worlds = [World(WorldConfig(seconds=8.0, textures=name), 3) for name in ("all", "train", "test")]
    for frame in (0, 100, 200):
        owners = [world.owners(frame) for world in worlds]
        np.testing.assert_array_equal(owners[0], owners[1])
        np.testing.assert_array_equal(owners[0], owners[2])
    pictures = [world.frame(0) for world in worlds]
    assert all((a != b).mean() > 0.2 for a, b in pairwise(pictures))


def test_an_unknown_texture_set_is_refused():
    with pytest.raises(ValueError, match="unknown textures"):
        WorldConfig(textures="marble")


def test_owners_are_the_masks_of_all_things():
    world = World(WorldConfig(seconds=8.0), 3)
    owners = world.owners(50)
    for object_id, mask in world.masks(50).items():
        np.testing.assert_array_equal(owners == int(object_id), mask)
    assert world.things == (*(o.attributes for o in world.objects), *world.others)


def test_what_is_held_is_what_moves_with_the_head():
    world = World(WorldConfig(seconds=30.0, hands_per_min=40.0), 1)
    held = [world.held(i) for i in range(world.num_frames)]
    assert any(k is None for k in held)
    some = {k for k in held if k is not None}
    assert some
    assert some <= set(range(len(world.things)))
