"""The frames that VideoLISA is trained on: near the object, with and without it, whatever the clip."""

import numpy as np
import pytest

from egoray.models.videolisa.prompt import sparse_frames
from egoray.train.videolisa_frames import egomask_frames, spread_frames

DRAWS = 60


def shown(total, *frames):
    return np.isin(np.arange(total), frames)


CLIPS = {
    "one frame": shown(1, 0),
    "one frame without it": shown(1),
    "three frames": shown(3, 1),
    "as many as are looked at": shown(32, *range(5, 9)),
    "one more": shown(33, 4),
    "in every frame": np.ones(200, bool),
    "in every frame of a short clip": np.ones(20, bool),
    "in no frame": np.zeros(200, bool),
    "in one frame of many": shown(500, 333),
    "in three frames": shown(100, 3, 50, 98),
    "after the last start's reach": shown(120, 115, 116, 117, 118, 119),
    "long": shown(3000, *range(1000, 1200)),
}


@pytest.mark.parametrize("present", CLIPS.values(), ids=CLIPS.keys())
def test_each_clip_gives_as_many_frames_as_asked_with_the_object_among_them(present):
    for seed in range(DRAWS):
        sparse, dense = egomask_frames(present, 32, 4, np.random.default_rng(seed))
        assert len(sparse) == 32
        assert sparse == sorted(sparse)
        assert 0 <= sparse[0] <= sparse[-1] < len(present)
        assert len(set(sparse)) == min(32, len(present))
        chosen = [sparse[k] for k in dense]
        assert chosen == sorted(chosen)
        assert len(chosen) == 4
        assert len(set(chosen)) == min(4, len(present))
        assert len(set(sparse) & set(np.flatnonzero(present))) >= min(4, present.sum())
        found = len(set(chosen) & set(np.flatnonzero(present)))
        assert found >= min(2, present.sum(), len(present))
        assert set(chosen) <= set(np.flatnonzero(present)) or found <= 3


def test_dense_frames_are_four_of_those_with_the_object_and_two_without():
    """With 10 of the first and many of the second, the share without it is that of 4 drawn of 12: a third."""
    present = shown(32, *range(10, 20))
    absent = [
        sum(not present[sparse[k]] for k in dense)
        for sparse, dense in (egomask_frames(present, 32, 4, np.random.default_rng(seed)) for seed in range(600))
    ]
    assert set(absent) == {0, 1, 2}
    assert np.mean(absent) == pytest.approx(4 * 2 / 12, abs=0.1)


def test_a_start_is_at_every_32nd_frame_and_near_the_object():
    """Neighbours 1 to 3 frames away give the start away: of three close frames in a clip this long it is the one in the middle."""
    present = shown(100_000, *range(50_010, 50_020))  # 49,984 + 32 = 50,016, and 50,016 - 16 <= 50,010
    starts = set()
    for seed in range(DRAWS):
        sparse, _ = egomask_frames(present, 32, 4, np.random.default_rng(seed))
        starts |= {b for a, b, c in zip(sparse, sparse[1:], sparse[2:], strict=False) if b - a <= 3 and c - b <= 3 and b % 32 == 0}
    assert starts == {50_016}
    wide = {
        frame
        for seed in range(DRAWS)
        for frame in egomask_frames(shown(100_000, 50_000), 32, 4, np.random.default_rng(seed))[0]
        if frame in (49_984, 50_016)
    }
    assert wide == {49_984, 50_016}  # both are 16 away


def test_the_same_draws_give_the_same_frames():
    present = CLIPS["long"]
    one, other, third = (egomask_frames(present, 32, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == other
    assert one != third


@pytest.mark.parametrize("total", [1, 2, 31, 32, 33, 700])
def test_exocentric_clips_are_looked_at_as_at_inference(total):
    seen = set()
    for seed in range(DRAWS):
        sparse, dense = spread_frames(total, 32, 4, np.random.default_rng(seed))
        assert sparse == sparse_frames(total, 32)
        assert len({sparse[k] for k in dense}) == min(4, total)
        assert len(dense) == 4
        assert dense == sorted(dense)
        seen |= {sparse[k] for k in dense}
    assert len(seen) == min(32, total)
