"""Where each clip goes: the paper's lengths, the counts asked for, no source video twice, and the same answer each time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoray.config import BuildConfig
from egoray.dataset.sources import read_sources, source_of
from egoray.dataset.tiers import Candidate, divide, kept_frames, length_tier, seconds_of
from egoray.errors import FormatError
from egoray.schema import VideoInfo


def clip(name: str, seconds: float, *, source: str = "egotracks", of: str | None = None, objects: int = 2, every: int = 50) -> Candidate:
    """A clip whose n-th object is seen on each ``every``-th annotation frame, from frame 5 * n."""
    fps, stride = (2.0, 1) if source == "refego" else (30.0, 6)
    video = VideoInfo(
        video_id=name, uri="", num_frames=round(seconds * fps), fps=fps, height_px=72, width_px=96, source=source, stride=stride
    )
    kept = kept_frames(video, 1)
    seen = {str(n + 1): tuple(f for f in kept if f % every == (5 * n) % every) for n in range(objects)}
    return Candidate(video=video, source_video=of or source_of(video, {}), seen={k: v for k, v in seen.items() if v})


def tiers(division):
    found = {}
    for choice in division.choices:
        found.setdefault(choice.tier, []).append(choice)
    return found


@pytest.mark.parametrize(("seconds", "tier"), [(59.9, "short"), (60, "medium"), (180, "medium"), (180.1, "long"), (0.5, "short")])
def test_the_lengths_are_the_papers(seconds, tier):
    assert length_tier(seconds) == tier


clips = st.lists(
    st.tuples(st.sampled_from([20.0, 59.5, 60.0, 120.0, 180.0, 181.0, 400.0]), st.integers(0, 6), st.booleans()), min_size=1, max_size=25
)


@settings(max_examples=60, deadline=None)
@given(
    clips,
    st.integers(0, 5),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from([1, 5]),
)
def test_what_the_rules_promise_holds_for_any_clips(drawn, seed, short, medium, long, train, fps):
    candidates = [
        clip(f"v{of}--{n}-40", seconds, source="refego", of=f"v{of}") if refego and seconds < 60 else clip(f"c{n}", seconds, of=f"v{of}")
        for n, (seconds, of, refego) in enumerate(drawn)
    ]
    config = BuildConfig(seed=seed, short=short, medium=medium, long=long, train=train, medium_per_video=3, fps=fps)
    division = divide(candidates, config)
    found = tiers(division)
    splits = {}
    for choice in division.choices:
        splits.setdefault(choice.candidate.source_video, set()).add(choice.tier)
        seconds = len(choice.frames) / fps if choice.tier == "medium" else seconds_of(choice.candidate.video)
        assert choice.tier == "train" or length_tier(seconds) == choice.tier
        assert choice.object_ids
        assert all(set(choice.candidate.seen[object_id]) & set(choice.frames) for object_id in choice.object_ids)
    assert all(len(of) == 1 for of in splits.values())
    assert all(len(found.get(tier, [])) <= most for tier, most in (("short", short), ("medium", medium), ("long", long)))
    names = [choice.video_id for choice in division.choices]
    assert len(names) == len(set(names))
    used = {choice.candidate.video.video_id for choice in division.choices}
    assert used | division.left_out.keys() == {c.video.video_id for c in candidates}
    assert not used & division.left_out.keys()
    assert all(choice.video_id.startswith(f"{choice.candidate.video.video_id}--") for choice in found.get("medium", []))
    shuffled = random.Random(seed).sample(candidates, len(candidates))
    assert divide(shuffled, config) == division


def test_short_is_refegos_where_there_is_any():
    given = [clip("a", 30), clip("b", 40), clip("film--7-40", 20, source="refego")]
    found = tiers(divide(given, BuildConfig()))
    assert [c.video_id for c in found["short"]] == ["film--7-40"]
    assert sorted(c.video_id for c in found["train"]) == ["a", "b"]
    assert sorted(c.video_id for c in tiers(divide(given[:2], BuildConfig()))["short"]) == ["a", "b"]


def test_medium_is_cut_from_long_videos_at_random_and_named_after_them():
    given = [clip(f"c{n}", 400, every=300) for n in range(3)]
    config = BuildConfig(long=1, medium=7, medium_per_video=4, objects={"medium": 1})
    found = tiers(divide(given, config))
    assert [len(found[tier]) for tier in ("long", "medium")] == [1, 7]
    windows = {(c.frames[0], c.frames[-1]) for c in found["medium"]}
    assert len(windows) == 7
    assert all(c.video_id == f"{c.candidate.video.video_id}--{c.frames[0]:05d}-{c.frames[-1]:05d}" for c in found["medium"])
    assert {len(c.object_ids) for c in found["medium"]} == {1}
    assert tiers(divide(given, config.model_copy(update={"seed": 1})))["medium"] != found["medium"]
    [long] = found["long"]
    shared = tiers(divide(given, config.model_copy(update={"medium_from": "long"})))
    assert {c.candidate.video.video_id for c in shared["medium"]} == {long.video_id}


def test_a_further_clip_changes_no_other_ones_window():
    given = [clip(f"c{n}", 300) for n in range(4)]
    config = BuildConfig(long=0, medium_per_video=2)
    before = {c.video_id for c in tiers(divide(given, config))["medium"]}
    assert before < {c.video_id for c in tiers(divide([*given, clip("c9", 300)], config))["medium"]}


def test_clips_of_one_video_stay_together():
    given = [clip(f"c{n}", 300 if n % 2 else 30, of="film") for n in range(4)]
    division = divide(given, BuildConfig(long=1))
    assert {c.tier for c in division.choices} == {"long"}
    assert set(division.left_out.values()) == {"its source video film is in long"}


def test_the_source_video_is_read_from_each_kind_of_file(tmp_path: Path):
    meta, tracks, derived = tmp_path / "ego4d.json", tmp_path / "egotracks.json", tmp_path / "derived.json"
    meta.write_text(json.dumps({"videos": [{"video_uid": "v1"}], "clips": [{"clip_uid": "a", "video_uid": "v1"}, {"clip_uid": "x"}]}))
    tracks.write_text(json.dumps({"videos": [{"video_uid": "v2", "clips": [{"clip_uid": "b", "exported_clip_uid": "e"}]}]}))
    derived.write_text(json.dumps({"c": {"video_uid": "v3", "duration": 9.0}}))
    assert read_sources([str(meta), str(tracks), str(derived)]) == {"a": "v1", "b": "v2", "e": "v2", "c": "v3"}
    meta.write_text("{}")
    with pytest.raises(FormatError, match="names no clip's video"):
        read_sources([str(meta)])
