"""The try-it page in headless Chromium, asking a stand-in for the service over real sockets about a synthetic clip with exact masks."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from support.grounding_server import GroundingServer

import egoray
from egoray.core import masks
from egoray.core.video_writer import VideoWriter
from egoray.formats.grounding_json import answer_json
from egoray.synthetic.world import World, WorldConfig

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]

STATIC = Path(egoray.__file__).parent / "serve" / "static"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
WORLD = WorldConfig(
    seconds=6, fps=15, stride=3, size_hw=(360, 640), presence=0.5, area_fraction=0.03, trajectories_per_min=15, hands_per_min=0
)
STEP_S = WORLD.stride / WORLD.fps
COLOURS = [(230, 159, 0), (86, 180, 233), (0, 158, 115)]  # Okabe and Ito's first


class Scene:
    """A clip on disk and what a perfect model would answer; `masks[text][k]` is the bool mask in the k-th frame looked at."""

    def __init__(self, path):
        world = World(WORLD, (0, 0))
        frames = range(0, world.num_frames, WORLD.stride)
        with VideoWriter(str(path), WORLD.fps, WORLD.size_hw) as writer:
            for index in range(world.num_frames):
                writer.write(world.frame(index))
        self.path = path
        times_s = [index / WORLD.fps for index in frames]
        self.masks, self.answers = {}, {}
        for shown in world.objects:
            text = f"the {shown.attributes.title}"
            seen = {k: world.masks(index).get(shown.object_id) for k, index in enumerate(frames)}
            self.masks[text] = {k: mask for k, mask in seen.items() if mask is not None}
            rles = {k: masks.encode(mask) for k, mask in self.masks[text].items()}
            scores = {k: 0.55 + 0.4 * float(np.cos(k / 2)) ** 2 for k in rles}
            found = answer_json(text, rles, scores, times_s, WORLD.stride)["frames"]
            self.answers[text] = {event["frame"] // WORLD.stride: event for event in found}
        self.texts = list(self.masks)
        self.start = {"num_frames": len(frames), "fps": 1 / STEP_S, "size_hw": list(WORLD.size_hw)}

    def middle(self, text, index):
        """(x, y) of a pixel well inside a mask."""
        import cv2

        distance = cv2.distanceTransform(self.masks[text][index].astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(np.argmax(distance), distance.shape)
        return int(x), int(y)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("page") / "kitchen walk.mp4")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def service(scene):
    with GroundingServer(STATIC, scene.start, scene.answers) as service:
        service.samples = {"Kitchen": (scene.path.read_bytes(), scene.texts)}
        yield service


@pytest.fixture
def page(browser, service):
    """The open page; a script error, or a refusal by the page's own policy, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(15_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(service.url)
    page.get_by_role("button", name="Kitchen").wait_for()
    yield page
    context.close()
    assert [text for text in wrong if "Failed to load resource" not in text] == []


def until(page, expression, timeout_s=15):
    """Poll, since the page's policy forbids the evaluation that `wait_for_function` does in it."""
    limit = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < limit, f"never: {expression}"
        page.wait_for_timeout(20)


def choose_sample(page):
    page.get_by_role("button", name="Kitchen").click()
    until(page, "document.getElementById('video').readyState >= 2")


def ask(page, *texts):
    """Ask for the texts, and return at once."""
    while page.locator("#sentences input").count() < len(texts):
        page.get_by_role("button", name="Another sentence").click()
    for k, text in enumerate(texts):
        page.get_by_label(f"Sentence {k + 1}", exact=True).fill(text)
    page.get_by_role("button", name="Find it").click()


def wait_done(page):
    until(page, "/^(Done|Stopped|Cancelled)/.test(document.getElementById('doing').textContent)")


def go_to(page, time_s):
    """Step the ruler from the start to a frame's time, by keyboard."""
    ruler = page.get_by_role("slider", name="Position in the video")
    ruler.focus()
    page.keyboard.press("Home")
    for _ in range(round(time_s / STEP_S)):
        page.keyboard.press("ArrowRight")
    settle(page)


def settle(page):
    """Until the video shows the frame that was sought."""
    until(page, "!document.getElementById('video').seeking")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixel(page, x, y):
    """(red, green, blue, alpha) of the masks' canvas."""
    script = "([x, y]) => [...document.getElementById('masks').getContext('2d').getImageData(x, y, 1, 1).data]"
    return tuple(page.evaluate(script, [x, y]))


def painted(page):
    """How many pixels of the masks' canvas are painted."""
    script = """() => { const c = document.getElementById('masks'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                        let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
    return page.evaluate(script)


def near(colour, expected):
    return max(abs(a - b) for a, b in zip(colour, expected, strict=False)) <= 3


def test_run_lengths_are_pycocotools(page):
    """Random masks of every density, and the extremes, decode to the same pixels."""
    rng = np.random.default_rng(5)
    cases = []
    for k in range(60):
        size = tuple(rng.integers(1, 70, 2))
        smooth = rng.random(size) if k % 3 else np.add.outer(rng.random(size[0]).cumsum(), rng.random(size[1]).cumsum()) % 7 / 7
        cases.append(smooth < rng.random())
    cases += [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool)]
    wide = np.zeros((1080, 1920), bool)
    wide[200:900, 300:1700] = True
    wide[::7, ::11] ^= True
    cases.append(wide)
    for mask in cases:
        rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        script = """async ([size, counts]) => {
            const { decode } = await import(new URL("static/rle.js", document.baseURI));
            const { x, y, width, height, data } = decode({ size, counts });
            const bits = new Uint8Array(Math.ceil(data.length / 8));
            data.forEach((value, k) => (bits[k >> 3] |= value << (7 - (k & 7))));
            return { x, y, width, height, bits: Array.from(bits, (byte) => byte.toString(16).padStart(2, "0")).join("") };
        }"""
        got = page.evaluate(script, [[int(n) for n in rle["size"]], rle["counts"].decode()])
        back = np.zeros(mask.shape, bool)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(got["bits"]), np.uint8))[: got["width"] * got["height"]]
        back[got["y"] : got["y"] + got["height"], got["x"] : got["x"] + got["width"]] = bits.reshape(got["height"], got["width"])
        assert np.array_equal(back, mask)
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
            spans_columns = got["height"] == mask.shape[0]  # a run over several columns is not measured more closely
            assert (got["x"], got["width"]) == (tight[0], tight[2])
            assert spans_columns or (got["y"], got["height"]) == (tight[1], tight[3])


@pytest.mark.parametrize("counts", ["~", "5", "000", "oooooooooooo", "PPPPPPPPPPPP"])
def test_broken_run_lengths_are_refused(page, counts):
    script = """async (counts) => {
        const { decode } = await import(new URL("static/rle.js", document.baseURI));
        try { return decode({ size: [4, 4], counts }); } catch (error) { return error.name; }
    }"""
    assert page.evaluate(script, counts) == "RangeError"
