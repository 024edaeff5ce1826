"""Sentences from pixels and tracks: true of their object, marked where they are true of another too."""

from dataclasses import replace

from egoray.express.offline import Sight, Story, describe, relative_place, story
from egoray.schema import Trajectory

STORY = Story(first=0.0, last=1.0, present=0.5, appearances=2, travel=0.1)
CUP = Sight(object_id="1", title="cup", colours=("red",), side=0.2, centre=(0.1, 0.5), neighbours=(("lid", "to the left of"),), story=STORY)
LID = Sight(
    object_id="2", title="lid", colours=("green",), side=0.1, centre=(0.5, 0.5), neighbours=(("cup", "to the right of"),), story=STORY
)


def told(clip, subject):
    return {text: (kind, review) for kind, text, review in describe(clip, subject, 5, 10)}


def test_it_says_colour_place_size_and_neighbour():
    found = told([CUP, LID], CUP)
    assert "the red cup" in found
    assert "the cup to the left of the lid" in found
    assert "the red cup on the left" in found
    assert any("larger than the lid" in text for text in found)
    assert all(review == "" for _, review in found.values())
    assert len(found) == 5
    assert "the green lid in the middle of the view" in told([CUP, LID], LID)


def test_a_colour_in_the_title_is_not_said_twice_nor_contradicted():
    assert "the blue cup" in told([replace(CUP, title="blue cup"), LID], replace(CUP, title="blue cup"))


def test_what_is_true_of_a_twin_is_marked_and_comes_last():
    twin = replace(CUP, object_id="3", centre=(0.9, 0.9), neighbours=())
    found = list(told([CUP, twin], CUP).items())
    reviews = [review for _, (_, review) in found]
    assert dict(found)["the red cup"][1] == "true of object 3 too"
    assert dict(found)["the cup to the left of the lid"][1] == ""
    assert reviews == sorted(reviews)
    assert all(review == "" for _, review in told([CUP, replace(twin, colours=("blue",))], CUP).values())


def test_an_object_without_a_title_still_has_a_name():
    assert all("object 1" in text for text in told([replace(CUP, title="")], replace(CUP, title="")))


def test_the_story_of_a_track():
    boxes = {f: (10.0 * f, 0.0, 10.0 * f + 4, 4.0) for f in (0, 1, 2, 8, 9)}
    spans = [Trajectory(video_id="v", object_id="1", start=a, stop=b, prompt_frame=a, prompt_box=boxes[a]) for a, b in ((0, 3), (8, 10))]
    assert story(boxes, spans, 20, 100) == Story(first=0.0, last=0.5, present=0.25, appearances=2, travel=0.2)


def test_relative_places():
    box, right, low = (0.0, 0.0, 10.0, 10.0), (50.0, 5.0, 60.0, 15.0), (5.0, 50.0, 15.0, 60.0)
    assert (relative_place(box, right), relative_place(right, box)) == ("to the left of", "to the right of")
    assert (relative_place(box, low), relative_place(low, box)) == ("above", "below")
