"""Referring expressions without a language model: only what the title, the pixels and the tracks say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from egoray.express import checks
from egoray.express.colours import NAMES
from egoray.schema import Box, Trajectory

PROMPT_VERSION = "offline-1"
_LARGER = 1.4  # ratio of side lengths that people see at a glance
_EARLY, _LATE = 0.35, 0.65  # share of the clip by which an object is gone, or before which it is not seen
_STAYS, _CROSSES = 0.6, 0.5  # share of the clip in view; share of the view that its centre crosses in one appearance


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What the track says, over the whole clip: small enough to travel."""

    first: float
    """When it is first seen, as a share of the clip; ``last`` likewise; ``present`` is the share of frames that show it."""
    last: float
    present: float
    appearances: int
    travel: float
    """The largest distance that its centre covers in one appearance, over the width of the view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One object as the pixels show it on its clearest frame."""

    object_id: str
    title: str
    colours: tuple[str, ...]
    side: float
    """Root of its mask's largest share of the view."""
    centre: tuple[float, float]
    """(x, y) of its box on its clearest frame, over the width and height of the view."""
    neighbours: tuple[tuple[str, str], ...]
    """(title, where the object is relative to it) of the others on that frame, the nearest first."""
    story: Story


def story(boxes: Mapping[int, Box], trajectories: Sequence[Trajectory], num_frames: int, width_px: int) -> Story:
    """The track in five numbers; ``num_frames`` annotation frames of ``width_px``."""
    frames = sorted(boxes)
    travel = 0.0
    for t in trajectories:
        x = [(boxes[f][0] + boxes[f][2]) / 2 for f in range(t.start, t.stop) if f in boxes]
        travel = max(travel, (max(x) - min(x)) / width_px if x else 0.0)
    return Story(
        first=frames[0] / num_frames,
        last=(frames[-1] + 1) / num_frames,
        present=len(frames) / num_frames,
        appearances=len(trajectories),
        travel=travel,
    )


def relative_place(box: Box, other: Box) -> str:
    """Where ``box`` is, seen from ``other``: the axis on which their centres are farther apart decides."""
    dx, dy = (box[0] + box[2] - other[0] - other[2]) / 2, (box[1] + box[3] - other[1] - other[3]) / 2
    if abs(dx) >= abs(dy):
        return "to the right of" if dx > 0 else "to the left of"
    return "below" if dy > 0 else "above"


def describe(clip: Sequence[Sight], subject: Sight, per_object: int, short_max_words: int) -> list[tuple[str, str, str]]:
    """(kind, sentence, review) of at most ``per_object`` sentences about one object of the clip; every fact in them is true of it.

    Sentences that set the object apart from the clip's others come first. ``review`` names the other objects of which a sentence
    is true as well, and is empty where there are none.
    """
    others = [sight for sight in clip if sight.object_id != subject.object_id]
    found: list[tuple[bool, str, str, str]] = []
    for kind, facts in _recipes(_facts(subject, others)):
        sentence = _sentence(subject, facts)
        if kind == "short" and len(sentence.split()) > short_max_words:
            continue
        if any(checks.alike(sentence, earlier) for *_, earlier, _ in found):
            continue
        also = [o.object_id for o in others if _same_name(o, subject) and facts.items() <= _facts(o, _rest(clip, o)).items()]
        found.append((bool(also), kind, sentence, f"true of object {', '.join(also)} too" if also else ""))
    found.sort(key=lambda row: row[0])
    return [(kind, sentence, review) for _, kind, sentence, review in found[:per_object]]


def _rest(clip: Sequence[Sight], sight: Sight) -> list[Sight]:
    return [other for other in clip if other.object_id != sight.object_id]


def _same_name(first: Sight, second: Sight) -> bool:
    return checks.words(first.title) == checks.words(second.title)


def _facts(sight: Sight, others: Sequence[Sight]) -> dict[str, str]:
    """What can be said of the object, by the facet that says it; a facet without anything to say is missing."""
    facts = {}
    named = set(checks.words(sight.title))
    if sight.colours and not named & NAMES:
        facts["colour"] = " and ".join(sight.colours)
    if others and sight.side > _LARGER * max(o.side for o in others):
        facts["size"] = "the largest thing of all" if len(others) > 1 else f"larger than the {_name(others[0])}"
    elif others and _LARGER * sight.side < min(o.side for o in others):
        facts["size"] = "the smallest thing of all" if len(others) > 1 else f"smaller than the {_name(others[0])}"
    x, y = sight.centre
    facts["place"] = {(0, 0): "in the middle of the view"}.get((_third(x), _third(y))) or " ".join(
        word for word in ({-1: "high up", 1: "low down"}.get(_third(y)), {-1: "on the left", 1: "on the right"}.get(_third(x))) if word
    )
    if sight.neighbours:
        title, where = sight.neighbours[0]
        facts["neighbour"] = f"{where} the {title}"
        if len(sight.neighbours) > 1:
            title, where = sight.neighbours[1]
            facts["second neighbour"] = f"{where} the {title}"
    contrasts = [o for o in others if o.title and max(o.side, sight.side) > _LARGER * min(o.side, sight.side)]
    if contrasts:
        other = max(contrasts, key=lambda o: (max(o.side, sight.side) / min(o.side, sight.side), o.object_id))
        facts["contrast"] = f"{'larger' if sight.side > other.side else 'smaller'} than the {other.title}"
    told = sight.story
    if told.last < _EARLY:
        facts["time"] = "seen only near the beginning"
    elif told.first > _LATE:
        facts["time"] = "seen only near the end"
    elif told.present > _STAYS:
        facts["time"] = "in view most of the time"
    elif told.appearances >= 3:
        facts["time"] = f"that comes into view {told.appearances} times"
    if told.travel > _CROSSES:
        facts["motion"] = "that moves across the view"
    return facts


def _third(position: float) -> int:
    return -1 if position < 1 / 3 else 1 if position > 2 / 3 else 0


def _recipes(facts: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(kind, facts to use) of the sentences to try, in order."""
    plans = (
        ("short", ("colour",)),
        ("long", ("colour", "neighbour", "size", "time")),
        ("relation", ("neighbour",)),
        ("place", ("colour", "place")),
        ("time", ("time",)),
        ("contrast", ("contrast",)),
        ("relation", ("second neighbour",)),
        ("motion", ("motion",)),
        ("size", ("size",)),
        ("long", ("place", "contrast", "motion", "time")),
    )
    for kind, wanted in plans:
        used = {name: facts[name] for name in wanted if name in facts}
        if used or kind == "short":
            yield kind, used


def _name(sight: Sight) -> str:
    return sight.title.strip() or f"object {sight.object_id}"


def _sentence(sight: Sight, facts: Mapping[str, str]) -> str:
    """ "the red mug, low down on the left, seen only near the end": colour before the name, the rest behind it."""
    name = " ".join(part for part in ("the", facts.get("colour", ""), _name(sight)) if part)
    tail = [facts[facet] for facet in ("neighbour", "second neighbour", "place", "size", "contrast", "time", "motion") if facet in facts]
    joined = [tail[0], *(f", {part}" for part in tail[1:])] if tail else []
    return name + (" " + "".join(joined) if joined else "")
