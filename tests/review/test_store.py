"""The review's store: one writer an item, nothing confirmed is lost, and people's verdicts add up."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from egoray.core.reviewed import read_reviewed
from egoray.core.storage import Folder
from egoray.errors import ConfigError, FormatError
from egoray.review.drafts import Change, mask_of
from egoray.review.listing import listing
from egoray.review.store import Refused, Store
from support.review import disc, items, key, mask

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def clock():
    class Clock:
        now = 1_000_000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    made = Store(str(tmp_path / "review" / "review.db"), clock=clock)
    made.sync(items(6))
    yield made
    made.close()


def decide(store, who, verdict="accepted", *, tab="t", item_id=None, revision=0, **more):
    item_id = item_id or store.next(who, tab)
    return store.decide(item_id, who, tab, verdict, key=key(), revision=revision, **more)


def status(store, item_id):
    return store.item(item_id)["status"]


def test_the_hardest_comes_first_and_nobody_else_gets_it(store):
    assert [store.next(who, "t") for who in ("ann", "ben", "cem")] == ["item0000", "item0001", "item0002"]


def test_a_tab_keeps_what_it_names_and_lets_go_of_the_rest(store):
    first, second = store.next("ann", "t"), store.next("ann", "t", keep=["item0000"])
    assert (first, second) == ("item0000", "item0001")
    assert store.next("ann", "t", keep=[second]) == first
    assert store.next("ben", "t") == "item0002"


def test_a_lease_ends_when_it_expires_or_is_let_go(store, clock):
    store.next("ann", "t")
    clock.now += 599
    assert store.next("ben", "t") == "item0001"
    clock.now += 2
    assert store.next("cem", "t") == "item0000"
    store.release("cem", "t")
    assert store.next("dan", "t") == "item0000"


def test_renewing_keeps_an_item_beyond_its_first_lease(store, clock):
    store.next("ann", "t")
    for _ in range(3):
        clock.now += 400
        assert store.renew("ann", "t") == ["item0000"]
    assert store.next("ben", "t") == "item0001"


@pytest.mark.parametrize("filters", [{"clip": "clip-1"}, {"text": "thing 4"}, {"clip": "clip-1", "object_id": "1"}])
def test_next_obeys_the_filters(store, filters):
    assert store.next("ann", "t", **filters) == "item0004"


def test_signs_of_a_pattern_are_only_signs(store):
    assert store.next("ann", "t", text="%") is None
    assert store.next("ann", "t", text="thing_1") is None


def test_only_the_holder_writes(store):
    store.next("ann", "t")
    with pytest.raises(Refused, match="ann has this item open"):
        decide(store, "ben", item_id="item0000")
    with pytest.raises(Refused, match="another tab"):
        decide(store, "ann", tab="other", item_id="item0000")
    with pytest.raises(Refused, match="ann has this item open"):
        store.edit("item0000", "ben", "t", [mask(1)], key=key(), revision=0)
    with pytest.raises(Refused, match="no such item"):
        decide(store, "ben", item_id="../item0000")
    assert status(store, "item0000") == "open"


def test_a_person_may_take_an_item_over_into_another_tab(store):
    store.next("ann", "t")
    store.open("item0000", "ann", "other")
    with pytest.raises(Refused, match="another tab"):
        decide(store, "ann", item_id="item0000")
    decide(store, "ann", tab="other", item_id="item0000")
    assert status(store, "item0000") == "accepted"


def test_who_was_away_too_long_may_still_write_unless_it_was_decided_meanwhile(store, clock):
    store.next("ann", "t")
    clock.now += 10_000
    assert decide(store, "ann", item_id="item0000").verdict == "accepted"
    store.next("ann", "t")
    clock.now += 10_000
    decide(store, "ben", "rejected", item_id="item0001")
    with pytest.raises(Refused, match="decided meanwhile"):
        decide(store, "ann", item_id="item0001")
    assert status(store, "item0001") == "rejected"


def test_the_same_decision_sent_twice_counts_once(store):
    item_id, made = store.next("ann", "t"), key()
    first = store.decide(item_id, "ann", "t", "rejected", key=made, reason="flickers or jumps")
    assert store.decide(item_id, "ann", "t", "rejected", key=made, reason="flickers or jumps") == first
    assert len(store.history(item_id)) == 1


def test_undo_gives_the_item_back_and_what_was_said_before(store):
    decide(store, "ann", item_id="item0000")
    store.open("item0000", "ann", "t")
    decide(store, "ann", "rejected", item_id="item0000")
    made = key()
    assert store.undo("ann", "t", key=made) == store.undo("ann", "t", key=made) == "item0000"
    assert status(store, "item0000") == "accepted"
    store.undo("ann", "t", key=key())
    assert status(store, "item0000") == "open"
    with pytest.raises(Refused, match="no decision of yours"):
        store.undo("ann", "t", key=key())


def test_accepting_what_one_has_changed_is_a_fix(store):
    store.next("ann", "t")
    revision = store.edit("item0000", "ann", "t", [mask(2)], key=key(), revision=0)
    assert store.draft("item0000", "ann").locks == {2}
    with pytest.raises(Refused, match="changed in another tab"):
        decide(store, "ann", item_id="item0000")
    assert decide(store, "ann", item_id="item0000", revision=revision).verdict == "fixed"
    store.next("ann", "t")
    only_locked = store.edit("item0001", "ann", "t", [Change(kind="lock", name="2", value="1")], key=key(), revision=0)
    assert decide(store, "ann", item_id="item0001", revision=only_locked).verdict == "accepted"


def test_a_model_never_overwrites_a_frame_that_a_person_verified(store):
    store.next("ann", "t")
    revision = store.edit("item0000", "ann", "t", [mask(2, 30)], key=key(), revision=0)
    revision = store.edit("item0000", "ann", "t", [mask(f, 60) for f in (1, 2, 3)], key=key(), revision=revision, tracked=True)
    assert store.draft("item0000", "ann").masks == {1: disc(60), 2: disc(30), 3: disc(60)}
    revision = store.edit("item0000", "ann", "t", [Change(kind="lock", name="2", value=None)], key=key(), revision=revision)
    store.edit("item0000", "ann", "t", [mask(2, 60)], key=key(), revision=revision, tracked=True)
    assert store.draft("item0000", "ann").masks[2] == disc(60)


def test_edits_are_undone_step_by_step(store):
    store.next("ann", "t")
    revision = store.edit("item0000", "ann", "t", [mask(2, 30)], key=key(), revision=0)
    revision = store.edit("item0000", "ann", "t", [mask(2, 40), mask(3, 40)], key=key(), revision=revision)
    revision = store.edit("item0000", "ann", "t", [Change(kind="text", name="e1", value="the cup")], key=key(), revision=revision)
    seen = []
    for _ in range(3):
        revision = store.undo_edit("item0000", "ann", "t", key=key(), revision=revision)
        draft = store.draft("item0000", "ann")
        seen.append((draft.masks, draft.locks, draft.texts))
    assert seen == [({2: disc(40), 3: disc(40)}, {2, 3}, {}), ({2: disc(30)}, {2}, {}), ({}, set(), {})]
    with pytest.raises(Refused, match="no change to take back"):
        store.undo_edit("item0000", "ann", "t", key=key(), revision=revision)


def test_drafts_are_ones_own(store):
    store.next("ann", "t")
    store.edit("item0000", "ann", "t", [mask(2)], key=key(), revision=0)
    assert not store.draft("item0000", "ben").changes_anything


def test_two_people_decide_and_a_third_settles_their_dispute(store):
    store.sync(items(6, double=1))
    decide(store, "ann")
    assert status(store, "item0000") == "accepted"
    assert store.next("ann", "t") == "item0001"
    assert store.next("ben", "t") == "item0000"
    decide(store, "ben", "rejected", item_id="item0000")
    assert status(store, "item0000") == "disputed"
    decide(store, "cem", "rejected")
    assert status(store, "item0000") == "rejected"
    assert store.next("dan", "t") == "item0002"


def test_a_second_opinion_is_given_without_knowing_the_first(store):
    store.sync(items(6, double=1))
    decide(store, "ann")
    assert listing(store, "ann", status="accepted")["total"] == 1
    assert listing(store, "ben", status="accepted")["total"] == 0
    assert listing(store, "ben")["rows"][0]["status"] == "open"
    decide(store, "ben", item_id=store.next("ben", "t"))
    assert listing(store, "ben")["rows"][0]["status"] == listing(store, "cem")["rows"][0]["status"] == "accepted"


def test_a_skip_leaves_the_item_to_others(store):
    decide(store, "ann", "skipped")
    assert status(store, "item0000") == "skipped"
    assert store.next("ann", "t") == "item0001"
    decide(store, "ben", item_id=store.next("ben", "t"))
    assert status(store, "item0000") == "accepted"


def test_planted_items_reach_every_reviewer_and_no_list(store):
    store.sync(items(1, planted=1))
    for who in ("ann", "ben"):
        seen = []
        while item_id := store.next(who, "t"):
            seen.append(item_id)
            decide(store, who, "rejected", item_id=item_id)
        assert "plant0001" in seen
    assert [row["id"] for row in listing(store, "dan")["rows"]] == ["item0000"]
    assert sum(listing(store, "dan")["counts"].values()) == 1


def test_an_item_annotated_anew_is_open_again(store):
    decide(store, "ann")
    store.sync(items(6, version="v2"))
    assert status(store, "item0000") == "open"
    with pytest.raises(Refused, match="no decision of yours"):
        store.undo("ann", "t", key=key())
    store.sync(items(6))
    assert status(store, "item0000") == "accepted"


def test_a_vanished_item_leaves_the_queue_and_keeps_its_history(store):
    decide(store, "ann")
    store.sync(items(6)[2:])
    assert listing(store, "dan")["total"] == 4
    assert store.export() == {}
    store.sync(items(6))
    assert store.export() == {"accepted": 1}


def test_lists_filter_and_count(store):
    decide(store, "ann")
    decide(store, "ben", "rejected")
    store.next("cem", "t")
    assert [row["id"] for row in listing(store, "dan", status="rejected")["rows"]] == ["item0001"]
    assert [row["id"] for row in listing(store, "dan", reviewer="ann")["rows"]] == ["item0000"]
    assert [row["id"] for row in listing(store, "dan", clip="clip-1", limit=1, offset=1)["rows"]] == ["item0005"]
    found = listing(store, "dan")
    assert found["rows"][2]["held_by"] == "cem"
    assert found["counts"] == {"open": 4, "accepted": 1, "fixed": 0, "rejected": 1, "skipped": 0, "disputed": 0}


def test_the_builder_reads_the_outcome(store):
    store.next("ann", "t")
    changes = [mask(4), Change(kind="text", name="e1", value="the red cup"), Change(kind="text", name="e2", value="")]
    revision = store.edit("item0000", "ann", "t", changes, key=key(), revision=0)
    decide(store, "ann", item_id="item0000", revision=revision)
    decide(store, "ann", "rejected", reason="flickers or jumps", note="see frame 3")
    store.open("item0000", "ben", "t")
    store.edit("item0000", "ben", "t", [mask(9)], key=key(), revision=0)  # a draft that nobody has accepted
    assert store.export() == {"fixed": 1, "rejected": 1}
    found = read_reviewed(Folder(str(Path(store.path).parents[1])))
    row = found.items["clip-0", "1"]
    assert (row["status"], row["reviewer"], row["data_version"]) == ("fixed", "ann", "v1")
    assert row["time"].startswith("1970-01-12T")
    assert found.items["clip-0", "2"]["note"] == "flickers or jumps: see frame 3"
    assert found.masks == {("clip-0", "1"): {4: mask_of(disc(30))}}
    assert found.texts == {"e1": "the red cup", "e2": ""}


def test_a_dispute_counts_as_skipped_for_the_builder(store):
    store.sync(items(1, double=1))
    decide(store, "ann")
    decide(store, "ben", "rejected")
    assert store.export() == {"skipped": 1}
    assert read_reviewed(Folder(str(Path(store.path).parents[1]))).items["clip-0", "1"]["note"] == "disputed: ann accepted, ben rejected"


def test_a_history_moves_to_another_store_and_a_second_time_adds_nothing(store, tmp_path):
    store.next("ann", "t")
    revision = store.edit("item0000", "ann", "t", [mask(4)], key=key(), revision=0)
    decide(store, "ann", item_id="item0000", revision=revision)
    decide(store, "ben", "rejected")
    store.undo("ben", "t", key=key())
    lines = list(store.dump())
    other = Store(str(tmp_path / "other.db"))
    other.sync(items(6))
    decide(other, "cem", "skipped", item_id="item0005")  # so that the numbers of the rows differ
    assert other.load(lines) == {"decisions": 3, "edits": 2, "known already": 0, "items": 0}
    assert other.load(lines) == {"decisions": 0, "edits": 0, "known already": 5, "items": 0}
    assert (status(other, "item0000"), status(other, "item0001")) == ("fixed", "open")
    other.export(str(tmp_path / "out" / "review"))
    assert read_reviewed(Folder(str(tmp_path / "out"))).masks == {("clip-0", "1"): {4: mask_of(disc(30))}}
    strip = [[json.loads(line) for line in text if json.loads(line).get("reviewer") in ("ann", "ben")] for text in (lines, other.dump())]
    assert strip[0] == strip[1]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"type": "decision"}', '{"type": "song"}', '{"type": "edit", "step": "s", "kind": "mask", "name": "1"}']
)
def test_a_damaged_history_adds_nothing(store, line):
    good = json.dumps(
        {"type": "item"}
        | dict.fromkeys(("video_id", "object_id", "title", "reasons", "data_version"), "x")
        | {"id": "new", "planted": 0, "required": 1, "hardness": 0, "place": 0}
    )
    with pytest.raises(FormatError, match="line 2: not a line of an exported review"):
        store.load([good, line])
    with pytest.raises(Refused):
        store.item("new")


@pytest.mark.parametrize(
    "change", ["UPDATE decisions SET verdict = 'accepted'", "DELETE FROM decisions", "UPDATE edits SET value = ''", "DELETE FROM edits"]
)
def test_the_logs_only_grow(store, change):
    store.next("ann", "t")
    revision = store.edit("item0000", "ann", "t", [mask(1)], key=key(), revision=0)
    decide(store, "ann", item_id="item0000", revision=revision)
    with pytest.raises(sqlite3.IntegrityError, match="only grow"), store.writing() as db:
        db.execute(change)


def test_a_file_that_is_no_store_is_one_clear_error(tmp_path):
    (tmp_path / "review.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match="cannot be used as the review's store"):
        Store(str(tmp_path / "review.db"))


def test_twenty_clients_at_once_have_one_writer_an_item(tmp_path):
    path, num = str(tmp_path / "review.db"), 120
    first = Store(path)
    first.sync(items(num, double=10))
    held, faults, lock = {}, [], threading.Lock()

    def work(n):
        store, who = Store(path), f"person{n % 5}"  # five people with four tabs each
        while item_id := store.next(who, f"tab{n}"):
            with lock:
                if item_id in held:
                    faults.append((item_id, held[item_id], n))
                held[item_id] = n
            store.edit(item_id, who, f"tab{n}", [mask(1)], key=key(), revision=store.draft(item_id, who).revision)
            with lock:
                del held[item_id]
            store.decide(item_id, who, f"tab{n}", "rejected", key=key(), revision=store.draft(item_id, who).revision)
        store.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(5):  # second looks that fell due after everybody else had gone
        work(n)
    made = [json.loads(line) for line in first.dump()]
    writers = Counter(line["item_id"] for line in made if line["type"] == "decision")
    assert not faults
    assert writers == {item.id: item.required for item in items(num, double=10)}


@pytest.mark.slow
def test_no_confirmed_decision_is_lost_by_a_killed_process(tmp_path):
    path = str(tmp_path / "review.db")
    first, rng = Store(path), random.Random(0)
    first.sync(items(3000))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])}
    confirmed = []
    for n in range(20):
        command = [sys.executable, "-m", "support.review", path, "ann", f"tab{n}"]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        confirmed.append(worker.stdout.readline().split())
        time.sleep(rng.uniform(0, 0.15))
        worker.kill()
        confirmed += [line.split() for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        worker.wait()
    history = [json.loads(line) for line in first.dump()]
    steps = {line["step"] for line in history if line["type"] == "edit"}
    decisions = {line["key"]: line for line in history if line["type"] == "decision"}
    assert len(confirmed) > 100
    for item_id, step, made in confirmed:
        assert step in steps
        assert (decisions[made]["item_id"], decisions[made]["verdict"], decisions[made]["covers"]) == (item_id, "fixed", step)
    assert first.writing  # the file is whole
    with first.reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
