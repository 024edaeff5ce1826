"""The review page in a browser: a whole session by keyboard, counted, through reloads, a second tab and a server that goes away."""

import json
import shutil
import time
from contextlib import ExitStack

import numpy as np
import pytest

from egoray.core.masks import encode, iou
from egoray.core.reviewed import read_reviewed
from egoray.core.storage import Folder
from egoray.core.workfolder import write_expressions
from egoray.schema import Expression, MaskRLE
from support.annotated import write_annotated
from support.release import SIZE_HW, disc
from support.review_server import serving

pytestmark = pytest.mark.browser
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    work = write_annotated(folder, titles=("red cup", f"green lid {HOSTILE}"), keep=0.8)
    for clip in ("clip-0", "clip-1"):
        for object_id, name in (("1", "red cup"), ("2", "green lid")):
            about = {"video_id": clip, "object_id": object_id, "kind": "short", "source": "test"}
            texts = [f"the {name}", f"the {name} {HOSTILE}"]
            sentences = [Expression(expression_id=f"{clip}-{object_id}-{n}", text=text, **about) for n, text in enumerate(texts)]
            write_expressions(Folder(work) / "expressions", f"{clip}-{object_id}", sentences)
    return work


@pytest.fixture
def work(annotated, tmp_path):
    shutil.copytree(annotated, tmp_path / "work")
    return str(tmp_path / "work")


class Session:
    """A person at the page, whose key presses are counted."""

    def __init__(self, browser, port, width=1280, context=None):
        self.context = context or browser.new_context(viewport={"width": width, "height": 800})
        self.page = self.context.new_page()
        self.faults, self.presses = [], 0
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.ready()

    def ready(self):
        self.page.wait_for_selector("#stage:not([hidden]), #done:not([hidden])")

    def until(self, script, arg=None):
        """Wait until the script is true; asked from outside, for the page's policy forbids it to evaluate strings."""
        wait_until(lambda: self.page.evaluate(script, arg))

    def at(self, item):
        self.until("id => location.hash === '#item=' + id", item)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.presses += 1

    def saved(self):
        self.until("document.getElementById('saved').textContent === 'saved'")

    @property
    def item(self):
        return self.page.url.partition("#item=")[2]

    def decide(self, *keys):
        """Press the keys and wait for another item; how many presses it took."""
        before, presses = self.item, self.presses
        self.press(*keys)
        self.until("before => location.hash !== '#item=' + before", before)
        self.saved()
        return self.presses - presses

    def click_frame(self, x, y, **more):
        """Click on pixel (x, y) of the frame, wherever it is painted."""
        place = self.page.locator("#canvas").bounding_box()
        zoom = min(place["width"] / SIZE_HW[1], place["height"] / SIZE_HW[0])
        left, top = (place["width"] - zoom * SIZE_HW[1]) / 2, (place["height"] - zoom * SIZE_HW[0]) / 2
        self.page.locator("#canvas").click(position={"x": left + x * zoom, "y": top + y * zoom}, **more)

    def frame(self):
        return int(self.page.locator("#seek").input_value())


def row(review, item):
    found = review.store.item(item)
    return found["video_id"], found["object_id"], found["status"]


def test_a_full_session_by_keyboard(browser, work):
    with serving(work) as (review, port):
        person = Session(browser, port)
        page = person.page

        accepted = person.item
        assert person.decide("a") == 1
        assert row(review, accepted)[2] == "accepted"
        assert page.evaluate("performance.getEntriesByName('next item').length") == 1

        fixed = person.item
        clip, object_id, _ = row(review, fixed)
        person.press("f")
        frame = person.frame()
        truth = disc(frame, int(object_id) - 1)[0]
        rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        person.click_frame(float(columns.mean()), float(rows[-1]) - 1.5)
        page.wait_for_selector("#lock[aria-pressed=true]")
        assert page.locator("#accept").inner_text().startswith("Accept fix")
        assert person.decide("a") == 1
        assert row(review, fixed)[2] == "fixed"

        written = person.item
        about = row(review, written)
        person.press("e")
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        page.locator("#sentences textarea").first.fill("it")
        page.wait_for_selector("#sentences li")
        assert "does not name the object" in page.locator("#sentences li").first.inner_text()
        name = page.locator("#title").inner_text().partition(" <")[0]
        page.locator("#sentences textarea").first.fill(f"the {name} by the wall")
        page.wait_for_selector("#sentences .diff ins")
        person.press("Escape")
        assert person.decide("a") == 1
        assert row(review, written)[2] == "fixed"

        rejected = person.item
        assert person.decide("r", "4") == 2
        assert row(review, rejected)[2] == "rejected"
        page.wait_for_selector("#done:not([hidden])")

        person.press("u")
        person.at(rejected)
        assert row(review, rejected)[2] == "open"
        page.locator("#sentences textarea").nth(1).fill("a red or green thing")
        page.reload()  # in the middle of writing: nothing was confirmed to the person yet
        person.ready()
        person.until("document.querySelectorAll('#sentences textarea')[1]?.value === 'a red or green thing'")
        assert person.item == rejected
        assert person.decide("s") == 1
        assert row(review, rejected)[2] == "skipped"
        assert page.title() == "Review"
        assert person.faults == []
        person.context.close()
    found = read_reviewed(Folder(work))
    assert sorted(r["status"] for r in found.items.values()) == ["accepted", "fixed", "fixed", "skipped"]
    (mended,) = found.masks[clip, object_id].items()
    assert mended[0] == frame
    assert iou(mended[1], encode(truth)) > 0.9
    assert found.texts == {f"{about[0]}-{about[1]}-0": f"the {name} by the wall"}


def test_tools_by_keyboard_and_by_hand(browser, work):
    with serving(work) as (review, port):
        person = Session(browser, port)
        page, item = person.page, person.item
        frame = person.frame()

        def masks():
            person.saved()
            return {f: encode_value(v) for f, v in review.store.draft(item, "ann").masks.items()}

        page.locator("#canvas").focus()
        person.press("f", "3")
        person.press(*["]"] * 2, "Alt+ArrowRight", "Enter")
        page.wait_for_selector("#lock[aria-pressed=true]")
        painted = masks()[frame]
        person.press("4", "Enter")
        wait_until(lambda: masks()[frame] != painted)
        person.press("u")
        wait_until(lambda: masks()[frame] == painted)
        person.press("2")
        number = int(review.store.item(item)["object_id"]) - 1
        mask, (x, y, width, height) = disc(frame, number)
        place = page.locator("#canvas").bounding_box()
        zoom = min(place["width"] / SIZE_HW[1], place["height"] / SIZE_HW[0])
        left, top = place["x"] + (place["width"] - zoom * SIZE_HW[1]) / 2, place["y"] + (place["height"] - zoom * SIZE_HW[0]) / 2
        page.mouse.move(left + x * zoom, top + y * zoom)
        page.mouse.down()
        page.mouse.move(left + (x + width) * zoom, top + (y + height) * zoom, steps=3)
        page.mouse.up()
        wait_until(lambda: masks()[frame] != painted)
        assert iou(masks()[frame], encode(mask)) > 0.8
        person.press("t")
        wait_until(lambda: len(masks()) > 1)
        person.press("Shift+T")
        start, stop = next(
            a for a in page.evaluate("i => fetch('/api/items/' + i).then(r => r.json())", item)["appearances"] if a[0] <= frame < a[1]
        )
        wait_until(lambda: sorted(masks()) == list(range(start, stop)))
        person.press("0")
        wait_until(lambda: masks()[frame] == encode(np.zeros(SIZE_HW, bool)))
        person.press("Escape", "ArrowRight", " ")
        now = person.frame()
        person.until("now => document.getElementById('seek').value != now", str(now))
        person.press(" ", "l", "z", "m", "j", "?")
        assert page.locator("#help").is_visible()
        assert person.faults == []
        person.context.close()


def encode_value(value):
    height, width, counts = value.split(" ", 2)
    return MaskRLE(size=(int(height), int(width)), counts=counts)


def wait_until(true, seconds=10):
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop
        time.sleep(0.03)


def test_a_verdict_survives_a_server_that_goes_away_and_a_tab_that_is_closed(browser, work):
    with ExitStack() as first:
        _, port = first.enter_context(serving(work))
        person = Session(browser, port)
        item = person.item
        person.page.wait_for_timeout(500)  # the next object is here already
        first.close()
        person.press("r", "2")
        person.until("document.getElementById('saved').classList.contains('waiting')")
        person.page.close()
    with serving(work, port=port) as (review, _):
        assert row(review, item)[2] == "open"
        again = Session(browser, port, context=person.context)
        again.saved()
        wait_until(lambda: row(review, item)[2] == "rejected")
        assert [json.loads(line)["type"] for line in review.store.dump()].count("decision") == 1
        again.context.close()


def test_two_tabs_of_one_person_lose_nothing(browser, work):
    with serving(work) as (review, port):
        one = Session(browser, port)
        two = Session(browser, port, context=one.context)
        assert one.item != two.item
        item = one.item
        two.page.locator(f"#rows button[data-item='{item}']").click()
        two.at(item)
        two.page.locator("#sentences textarea").first.fill("the cup from the second tab")
        two.press("Escape")
        two.saved()
        wait_until(lambda: review.store.draft(item, "ann").texts)
        one.press("a")
        one.page.wait_for_selector("#notice:not([hidden])")
        assert "another tab" in one.page.locator("#notice").inner_text()
        assert row(review, item)[2] == "open"
        two.decide("a")
        assert row(review, item)[2] == "fixed"
        one.context.close()


def test_masks_are_coded_as_in_python(browser, work):
    rng = np.random.default_rng(0)
    masks = [rng.random((37, 53)) < share for share in (0, 0.02, 0.5, 1)] + [disc(3, 0)[0], np.zeros((360, 640), bool)]
    masks[-1][100:300, 7:600] = True
    with serving(work) as (_, port):
        person = Session(browser, port)
        for mask in masks:
            rle = encode(mask)
            script = """async ([counts, height, width]) => {
              const { decode, encode } = await import('/static/rle.js');
              const mask = decode(counts, height, width);
              return [mask.reduce((sum, v, n) => sum + v * (n % 9973 + 1), 0), encode(mask, height, width)];
            }"""
            total, counts = person.page.evaluate(script, [rle.counts, *rle.size])
            assert counts == rle.counts
            assert total == int((mask.ravel() * (np.arange(mask.size) % 9973 + 1)).sum())
        person.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_has_a_name_a_place_and_a_focus(browser, work, width):
    with serving(work) as (_, port):
        person = Session(browser, port, width)
        page = person.page
        person.press("f")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        nameless = """[...document.querySelectorAll('button, input, select, textarea, canvas:not([aria-hidden])')].filter(e =>
          !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
        assert page.evaluate(nameless) == []
        page.evaluate("document.activeElement.blur()")
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            ring = (
                "[document.activeElement.id || document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]"
            )
            seen.append(tuple(page.evaluate(ring)))
        ids = [name for name, _ in seen]
        wanted = ["canvas", "seek", "play", "accept", "fix", "reject", "skip", "undo", "note"]
        assert [ids.index(name) for name in wanted] == sorted(ids.index(name) for name in wanted)
        assert {outline for name, outline in seen if name in wanted} == {"solid"}
        person.context.close()
