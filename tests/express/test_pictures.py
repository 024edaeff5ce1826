"""Key frames, pictures, colours: each against what a person would say."""

import cv2
import numpy as np
import pytest

from egoray.core.masks import encode
from egoray.express import keyframes
from egoray.express.colours import dominant
from egoray.express.pictures import boxed, close_up, fit_tiles, num_tiles
from egoray.express.prices import jpeg_size
from egoray.schema import Trajectory


def squares(sides):
    masks, boxes = {}, {}
    for frame, side in sides.items():
        mask = np.zeros((100, 100), bool)
        mask[:side, :side] = True
        masks[frame], boxes[frame] = encode(mask), (0.0, 0.0, float(side), float(side))
    return masks, boxes


def appearance(start, stop):
    return Trajectory(video_id="v", object_id="1", start=start, stop=stop, prompt_frame=start, prompt_box=(0, 0, 1, 1))


def test_the_papers_rule_takes_the_largest_box_of_each_third_and_fills_up():
    masks, boxes = squares({0: 10, 1: 30, 10: 20, 11: 25, 20: 5, 30: 40, 31: 39})
    spans = [appearance(0, 2), appearance(10, 12), appearance(20, 21), appearance(30, 32)]
    assert keyframes.candidates(masks, boxes, spans, rule="paper", num=3) == [1, 20, 30]
    one = keyframes.candidates({f: masks[f] for f in (0, 1)}, boxes, spans[:1], rule="paper", num=3)
    assert one == [0, 1]
    assert keyframes.candidates({}, {}, [], rule="paper", num=3) == keyframes.candidates({}, {}, [], rule="clear", num=3) == []


def test_ours_prefers_large_sharp_and_spread():
    assert keyframes.choose({0: 100, 1: 100, 2: 100, 50: 100, 99: 100}, {0: 1, 1: 1, 2: 9, 50: 8, 99: 8}, 3) == [2, 50, 99]
    assert keyframes.choose({0: 100, 50: 1, 100: 100, 60: 90}, dict.fromkeys((0, 50, 60, 100), 1.0), 3) == [0, 60, 100]
    masks, boxes = squares({f: 10 + f % 7 for f in range(90)})
    chosen = keyframes.candidates(masks, boxes, [appearance(0, 90)], rule="clear", num=3)
    assert len(chosen) == 9
    assert all(10 * i <= f < 10 * i + 10 for i, f in enumerate(chosen))


def test_a_blurred_picture_is_less_sharp():
    image = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    box = (10.0, 10.0, 50.0, 50.0)
    assert keyframes.sharpness(cv2.GaussianBlur(image, (9, 9), 3), box) < 0.5 * keyframes.sharpness(image, box)
    assert keyframes.sharpness(image, (70.0, 0.0, 80.0, 9.0)) == 0.0


@pytest.mark.parametrize("size_hw", [(1080, 1920), (1440, 1080), (360, 640), (512, 512), (3000, 200)])
@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_pictures_fit_their_tiles_and_keep_their_shape(size_hw, most):
    height, width = fit_tiles(size_hw, most)
    assert num_tiles((height, width)) <= most
    assert height <= size_hw[0]
    assert min(height, width) <= 768
    assert width / height == pytest.approx(size_hw[1] / size_hw[0], rel=0.02)
    picture = boxed(np.zeros((*size_hw, 3), np.uint8), (1.0, 1.0, 5.0, 5.0), most)
    assert jpeg_size(picture) == (height, width)


def test_the_box_is_drawn_around_and_the_close_up_has_none():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[80:120, 100:160] = (0, 255, 0)
    box = (100.0, 80.0, 160.0, 120.0)
    shown = cv2.imdecode(np.frombuffer(boxed(image, box, 2), np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    assert tuple(shown[100, 130] // 100) == (0, 2, 0)
    assert shown[78, 130, 0] - shown[78, 130, 1] > 80  # red above it
    near = cv2.imdecode(np.frombuffer(close_up(image, box), np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    assert near.shape == (512, 512, 3)
    assert not (near[..., 0] - near[..., 1] > 80).any()
    assert 0.05 < (near[..., 1] - near[..., 0] > 80).mean() < 0.35


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 30, 30), "red"), ((30, 160, 50), "green"), ((40, 60, 200), "blue"), ((240, 220, 40), "yellow"), ((240, 140, 20), "orange"),
        ((110, 70, 40), "brown"), ((240, 240, 240), "white"), ((128, 128, 128), "grey"), ((12, 12, 12), "black"), ((230, 120, 170), "pink"),
        ((120, 60, 190), "purple"), ((40, 190, 190), "turquoise"),
    ],
)  # fmt: skip
def test_colours_have_their_everyday_names(rgb, name):
    assert dominant([np.full((50, 3), rgb, np.uint8)]) == (name,)


def test_two_colours_two_names_and_none_for_nothing():
    half = np.array([[200, 30, 30]] * 60 + [[240, 240, 240]] * 40, np.uint8)
    assert dominant([half]) == ("red", "white")
    assert dominant([]) == ()
    assert dominant([np.zeros((0, 3), np.uint8)]) == ()
