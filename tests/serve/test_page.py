"""The try-it page in headless Chromium, asking a stand-in for the service over real sockets about a synthetic clip with exact masks."""

import json
import re
import shutil
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from pycocotools import mask as coco

import egoray
from egoray.core import masks
from egoray.core.video_writer import VideoWriter
from egoray.formats.grounding_json import answer_json
from egoray.synthetic.world import World, WorldConfig
from support.grounding_server import GroundingServer

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
    until(page, "![...document.querySelectorAll('#rows .says')].some((said) => said.textContent === 'Looking…')")


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


def test_a_sample_is_asked_and_its_masks_are_drawn_where_the_objects_are(page, service, scene):
    choose_sample(page)
    assert page.get_by_label("Sentence 1", exact=True).input_value() == scene.texts[0]
    texts = scene.texts[1:4]
    ask(page, *texts)
    wait_done(page)
    assert service.asked == [{"sample": ["Kitchen"], "text": texts, "model": ["nano"], "stream": ["true"]}]
    drawn = 0
    for index in (0, 6, 18, 23, 29):
        go_to(page, index * STEP_S)
        present = {k: text for k, text in enumerate(texts) if index in scene.masks[text]}
        for k, text in present.items():
            assert near(pixel(page, *scene.middle(text, index)), COLOURS[k])
            drawn += 1
        union = np.any([scene.masks[text][index] for text in present.values()], axis=0)
        numbers = 400 * len(present)  # the sentence's number, a square of at most 18 CSS pixels
        assert union.sum() <= painted(page) <= union.sum() + numbers
    assert drawn >= 8
    assert page.locator("#doing").inner_text().startswith("Done in ")
    assert "3 of 3 found (decode 0.25 s, model 1.50 s)" in page.locator("#doing").inner_text()


def test_masks_arrive_over_the_video_before_the_answer_ends(page, service, scene):
    """The picture follows the model: painted, and further on, while the request is still under way."""
    service.pace_s = 0.1
    choose_sample(page)
    ask(page, scene.texts[1], scene.texts[2])
    until(page, "document.querySelectorAll('#rows .says')[0].textContent.startsWith('In view')")
    settle(page)
    assert painted(page) > 0
    first_s = page.evaluate("document.getElementById('video').currentTime")
    until(page, f"document.getElementById('video').currentTime > {first_s} + 0.5")
    assert page.get_by_role("button", name="Cancel").is_visible()
    assert re.fullmatch(r"\d+ of 30 frames · \d+\.\d s", page.locator("#doing").inner_text())
    assert page.locator("#bar").evaluate("bar => bar.value") < 1
    wait_done(page)


def test_a_mask_moves_with_its_box_between_the_frames_looked_at(page, service, scene):
    """A square that goes right by 60 pixels a frame looked at is a third and two thirds of the way in the two frames between."""
    squares = {}
    for k in range(2):
        mask = np.zeros(WORLD.size_hw, bool)
        mask[100:140, 100 + 60 * k : 140 + 60 * k] = True
        rle = masks.encode(mask)
        found = {"rle": {"size": list(rle.size), "counts": rle.counts}, "box_xyxy": [100 + 60 * k, 100, 140 + 60 * k, 140], "score": None}
        squares[k] = {"frame": k * WORLD.stride, "time_s": k * STEP_S, **found}
    service.answers = {"a square": squares}
    choose_sample(page)
    ask(page, "a square")
    wait_done(page)
    for native, left in ((0, 100), (1, 120), (2, 140), (3, 160)):
        page.evaluate("(time_s) => { document.getElementById('video').currentTime = time_s; }", (native + 0.5) / WORLD.fps)
        settle(page)
        assert [pixel(page, x, 120)[3] > 0 for x in (left - 3, left + 3, left + 37, left + 43)] == [False, True, True, False]
    page.evaluate("document.getElementById('video').currentTime = 0.45")
    settle(page)
    assert painted(page) == 0


def test_a_file_is_picked_or_dropped_and_sent(page, service, scene):
    page.locator("#file").set_input_files(scene.path)
    until(page, "document.getElementById('video').readyState >= 2")
    page.locator("#options > summary").click()
    page.get_by_label("From second").fill("1")
    page.get_by_label("Frames a second").fill("5")
    ask(page, scene.texts[1])
    wait_done(page)
    (fields,) = service.asked
    assert fields.pop("video") == [scene.path.read_bytes()]
    assert fields == {"text": [scene.texts[1]], "model": ["nano"], "start_s": ["1"], "fps": ["5"], "stream": ["true"]}

    drop = """([name, type]) => { const data = new DataTransfer(); data.items.add(new File(["a"], name, { type }));
             document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data })); }"""
    page.evaluate(drop, ["notes.txt", "text/plain"])
    assert page.get_by_role("alert").inner_text().startswith("notes.txt is not a video")
    page.evaluate(drop, ["walk.MKV", ""])
    until(page, "document.getElementById('name').textContent === 'walk.MKV'")


def test_a_file_the_browser_cannot_play_is_answered_all_the_same(page, service, scene, tmp_path):
    """Chromium has no MPEG-4 part 2: the page says so, and shows the masks without the picture."""
    with av.open(str(tmp_path / "old.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.height, stream.width, stream.pix_fmt = 360, 640, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(VideoFrame.from_ndarray(np.zeros((360, 640, 3), np.uint8))))
        container.mux(stream.encode(None))
    page.locator("#file").set_input_files(tmp_path / "old.mp4")
    page.locator("#unplayable").wait_for()
    assert page.locator("#unplayable").inner_text().startswith("This browser cannot play this file")
    ask(page, scene.texts[1])
    wait_done(page)
    go_to(page, 0.8)
    assert near(pixel(page, *scene.middle(scene.texts[1], 4)), COLOURS[0])
    assert page.locator("#clock").inner_text() == "0:00.8 / 0:06.0"
    page.get_by_role("button", name="Play", exact=True).click()
    until(page, "parseFloat(document.querySelector('.ruler').getAttribute('aria-valuenow')) > 1.1")


def test_timelines_scrub_and_step_by_keyboard_and_pointer(page, scene):
    text = scene.texts[1]
    choose_sample(page)
    ask(page, text, scene.texts[2])
    wait_done(page)
    track = page.get_by_role("slider", name=f"Timeline of: {text}")
    track.focus()

    def now():
        return float(track.get_attribute("aria-valuenow"))

    for keys, expected in (
        (["Home"], 0.0),
        (["ArrowRight"] * 3, 3 * STEP_S),
        (["ArrowLeft"], 2 * STEP_S),
        (["Shift+ArrowRight"], 2 * STEP_S + 1),
        (["End"], 6.0),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert now() == pytest.approx(expected, abs=0.02)
    starts = [k for k in scene.masks[text] if k - 1 not in scene.masks[text]]
    assert len(starts) == 2
    page.keyboard.press("PageUp")
    assert now() == pytest.approx(starts[1] * STEP_S, abs=0.02)
    settle(page)
    score = round(100 * scene.answers[text][starts[1]]["score"])
    assert track.get_attribute("aria-valuetext").endswith(f"in view, {score} % sure")
    assert painted(page) > 0
    page.keyboard.press("PageUp")
    assert now() == pytest.approx(starts[0] * STEP_S, abs=0.02)
    box = track.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.up()
    assert now() == pytest.approx(3.0, abs=0.05)
    assert track.get_attribute("aria-valuetext").endswith("not in view")


def test_a_timeline_shows_presence_and_confidence(page, scene):
    """The bar's foot is painted exactly where the object is in view, and the body as high as the score."""
    text = scene.texts[1]
    choose_sample(page)
    ask(page, text)
    wait_done(page)
    script = """() => { const c = document.querySelector('#rows canvas'), g = c.getContext('2d'), out = [];
        for (let k = 0; k < 30; k++) { const d = g.getImageData(Math.round((k + .5) * c.width / 30), 0, 1, c.height).data; let high = 0;
            for (let y = 0; y < c.height - 5; y++) high += d[4 * y] - d[4 * y + 2] > 30; // orange, not the grey ground
            const foot = 4 * (c.height - 2); out.push([d[foot], d[foot + 1], d[foot + 2], high / (c.height - 8)]); }
        return out; }"""
    for k, (*foot, high) in enumerate(page.evaluate(script)):
        red, _, blue = foot
        assert (red - blue > 100) == (k in scene.masks[text])
        if k in scene.masks[text]:
            assert high == pytest.approx(scene.answers[text][k]["score"], abs=0.12)


def test_a_sentence_can_be_hidden(page, scene):
    choose_sample(page)
    ask(page, *scene.texts[1:4])
    wait_done(page)
    go_to(page, 0)
    before = painted(page)
    spot = scene.middle(scene.texts[1], 0)
    page.get_by_label(f"Show {scene.texts[1]}").uncheck()
    assert pixel(page, *spot)[3] == 0
    assert 0 < painted(page) < before
    page.get_by_role("slider", name="Position in the video").focus()
    page.keyboard.press("1")
    assert page.get_by_label(f"Show {scene.texts[1]}").is_checked()
    assert painted(page) == before


def test_cancel_ends_the_request_and_keeps_what_arrived(page, service, scene):
    service.pace_s = 0.15
    choose_sample(page)
    ask(page, scene.texts[1])
    until(page, "document.querySelector('#rows .says')?.textContent.startsWith('In view')")
    page.get_by_role("button", name="Cancel").click()
    wait_done(page)
    assert service.gone.wait(2)
    assert page.locator("#doing").inner_text().startswith("Cancelled after ")
    assert page.locator("#rows .says").inner_text().startswith("In view once")
    assert page.get_by_role("button", name="Find it").is_visible()
    assert page.get_by_role("alert").is_hidden()
    with page.expect_download() as download:
        page.get_by_role("button", name="Answer, JSON").click()
    assert json.loads(download.value.path().read_text())["complete"] is False


def test_what_is_not_there_is_said_kindly(page, scene):
    choose_sample(page)
    ask(page, "the purple elephant")
    wait_done(page)
    assert page.locator("#rows .says").inner_text().startswith("Not found in this video. ")
    assert "not found" in page.locator("#doing").inner_text()
    assert page.get_by_role("alert").is_hidden()


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((413, {}, {"code": "too_large", "message": "The video is over 100 MB."}), "The video is over 100 MB. Trim it"),
        ((422, {}, {"code": "bad_video", "message": "The file holds no video."}), "The file holds no video."),
        ((503, {"Retry-After": "1"}, {"code": "loading", "message": "Weights are loading."}), "The service is not ready"),
        ((500, {}, {"code": "internal", "message": ""}), "The service failed"),
    ],
)
def test_refusals_are_said_with_a_remedy_and_lose_nothing(page, service, scene, refusal, said):
    choose_sample(page)
    ask(page, scene.texts[1])
    wait_done(page)
    service.refuse = refusal
    page.get_by_role("button", name="Find it").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert said in alert.inner_text()
    assert page.locator("#rows .says").inner_text().startswith("In view")  # the answer before is still there
    assert page.get_by_label("Sentence 1", exact=True).input_value() == scene.texts[1]
    if refusal[0] == 503:
        assert page.get_by_role("button", name="Ask again in 1 s").is_disabled()
        service.refuse = None
        page.get_by_role("button", name="Ask again", exact=True).click()  # waits until it may be pressed
        wait_done(page)
        assert len(service.asked) == 3
        assert alert.is_hidden()


@pytest.mark.parametrize(("knob", "said"), [("fails_after", "The model ran out of memory."), ("breaks_after", "The answer broke off")])
def test_an_answer_that_stops_midway_keeps_its_masks(page, service, scene, knob, said):
    setattr(service, knob, 5)
    choose_sample(page)
    ask(page, scene.texts[1])
    page.get_by_role("alert").wait_for()
    assert said in page.get_by_role("alert").inner_text()
    go_to(page, 2 * STEP_S)
    assert near(pixel(page, *scene.middle(scene.texts[1], 2)), COLOURS[0])


def test_a_service_that_is_gone_is_said(page, scene):
    choose_sample(page)
    page.context.set_offline(True)
    ask(page, scene.texts[1])
    page.get_by_role("alert").wait_for()
    assert "The service cannot be reached" in page.get_by_role("alert").inner_text()


def test_a_token_is_asked_for_and_sent(browser, service, scene):
    service.token = "secret-7"
    page = browser.new_page()
    page.goto(service.url)
    page.get_by_role("alert").wait_for()
    assert "asks for a token" in page.get_by_role("alert").inner_text()
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type("secret-7")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Kitchen").click()
    until(page, "document.getElementById('video').readyState >= 2")
    ask(page, scene.texts[1])
    wait_done(page)
    assert page.locator("#rows .says").inner_text().startswith("In view")
    page.close()


def test_text_is_shown_as_text(page, service, scene):
    """Markup in sentences, names and refusals stays text, and the page's policy forbids the rest."""
    nasty = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\'"&lt;'
    service.samples = {nasty: (scene.path.read_bytes(), [nasty])}
    service.models = [{"name": "nano", "summary": nasty, "ready": False}]
    page.reload()
    page.locator("#samples button").click()
    until(page, "document.getElementById('video').readyState >= 2")
    ask(page, nasty)
    wait_done(page)
    assert page.locator("#rows .text").inner_text() == nasty
    assert page.locator("#chips button").inner_text() == nasty
    assert page.locator("#model-note").text_content().startswith(nasty)
    service.refuse = (422, {}, {"code": "bad", "message": nasty})
    page.get_by_role("button", name="Find it").click()
    page.get_by_role("alert").wait_for()
    assert nasty in page.get_by_role("alert").inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_downloads_hold_the_answer(page, scene, tmp_path):
    texts = scene.texts[1:3]
    choose_sample(page)
    page.locator("#options > summary").click()
    page.get_by_label("To second").fill("2")  # the film is as long as what was asked about
    ask(page, *texts)
    wait_done(page)
    go_to(page, 0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Answer, JSON").click()
    answer = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "Kitchen.json"
    assert answer["complete"] is True
    assert answer["model"] == "nano"
    assert [row["text"] for row in answer["results"]] == texts
    for row in answer["results"]:
        assert row["frames"] == list(scene.answers[row["text"]].values())
        assert sum(round((seen["stop_s"] - seen["start_s"]) / STEP_S) for seen in row["appearances"]) == len(row["frames"])

    with page.expect_download() as download:
        page.get_by_role("button", name="This frame, PNG").click()
    picture = cv2.imread(str(download.value.path()))[..., ::-1]
    x, y = scene.middle(texts[0], 0)
    with av.open(str(scene.path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == frame.shape
    assert np.abs(picture[y, x] - (frame[y, x] * (1 - 120 / 255) + np.array(COLOURS[0]) * 120 / 255)).max() < 12
    bare = ~np.any([scene.masks[text][0] for text in texts if 0 in scene.masks[text]], axis=0)
    assert np.abs(picture.astype(int) - frame)[bare].mean() < 4

    with page.expect_download(timeout=30_000) as download:
        page.get_by_role("button", name="Overlay, WebM").click()
    assert download.value.suggested_filename == "Kitchen-overlay.webm"
    with av.open(str(download.value.path()), format="matroska") as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert frames[0].shape == (360, 640, 3)
    assert len(frames) >= 10
    assert np.abs(frames[0][y, x].astype(int) - picture[y, x]).max() < 40


def test_a_new_video_ends_the_question_before(page, service, scene):
    service.pace_s = 0.1
    choose_sample(page)
    ask(page, scene.texts[1])
    until(page, "document.querySelector('#rows .says')?.textContent.startsWith('In view')")
    page.locator("#file").set_input_files(scene.path)
    until(page, "document.getElementById('name').textContent === 'kitchen walk.mp4'")
    assert service.gone.wait(2)
    assert page.locator("#rows li").count() == 0
    assert page.get_by_role("button", name="Find it").is_visible()
    assert painted(page) == 0
    service.pace_s = 0
    page.get_by_role("button", name="Find it").click()
    wait_done(page)
    assert page.locator("#rows .says").inner_text().startswith("In view")


def test_pasted_lines_are_sentences(page, service, scene):
    choose_sample(page)
    page.get_by_label("Sentence 1", exact=True).fill("")
    paste = """(text) => { const data = new DataTransfer(); data.setData("text/plain", text);
              document.querySelector("#sentences input").dispatchEvent(
                  new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: data })); }"""
    page.evaluate(paste, "\n".join([scene.texts[1], "", f"  {scene.texts[2]} "]))
    page.keyboard.press("Enter")
    wait_done(page)
    assert service.asked[0]["text"] == scene.texts[1:3]


def test_everything_by_keyboard_alone(page, service, scene):
    """From an empty page to a hidden sentence without a mouse, the focus visible at each stop."""

    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            ring = page.evaluate("() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.outlineWidth; }")
            label_has_it = "document.activeElement === document.body || document.activeElement.id === 'file'"  # the button's label shows it
            assert ring == "solid3px" or page.evaluate(label_has_it)
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is out of reach")

    tab_to("#samples button")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('video').readyState >= 2")
    tab_to("#sentences input")
    page.keyboard.press("Control+A")
    page.keyboard.type(scene.texts[1])
    page.keyboard.press("Enter")
    wait_done(page)
    page.evaluate("document.activeElement.blur()")
    tab_to("#play")
    paused = page.evaluate("document.getElementById('video').paused")  # it plays on when the answer was there before its end
    page.keyboard.press("Enter")
    until(page, f"document.getElementById('video').paused === {str(not paused).lower()}")
    tab_to("#rows input")
    page.keyboard.press("Space")
    assert painted(page) == 0
    tab_to("#save-json")


CONTRASTS = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const ground = (e) => {
        const colour = parse(getComputedStyle(e).backgroundColor);
        return (colour[3] ?? 1) > 0.99 ? colour : ground(e.parentElement);
    };
    const hasText = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("h1, h2, p, button, label, span, summary, strong, a, output")]
        .filter((e) => e.checkVisibility() && !e.disabled && !e.closest(".unseen") && hasText(e))
        .map((e) => {
            const [low, high] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => a - b);
            return [e.textContent.slice(0, 30), (high + 0.05) / (low + 0.05)];
        });
}"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_off_the_screen(browser, service, scene, width, scheme):
    """No horizontal scrolling with long words, and text against its ground at 4.5 to 1 or better."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(service.url)
    page.get_by_role("button", name="Kitchen").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    choose_sample(page)
    service.answers = {**scene.answers, "x" * 300: scene.answers[scene.texts[1]]}
    ask(page, "x" * 300, scene.texts[2])
    wait_done(page)
    service.refuse = (422, {}, {"code": "bad", "message": "y" * 300})
    page.locator("#options > summary").click()
    page.get_by_role("button", name="Find it").click()
    page.get_by_role("alert").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [row for row in contrasts if row[1] < 4.5] == []
    page.close()
