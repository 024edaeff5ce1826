"""What VideoLISA is asked: the sampled frames, the tokens of the released tokenizer, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from egoray.errors import ModelError
from egoray.models.videolisa.prompt import Template, dense_positions, sparse_frames
from support.videolisa import FOLDER, copy

TOKENIZER = Path(__file__).parent / "data" / "videolisa_tokenizer"
RECORDED = json.loads((TOKENIZER / "recorded.json").read_text(encoding="utf-8"))


def middles(total, wanted):
    """By whole numbers: the range of number k is k*total//wanted up to the next one."""
    return [(k * total // wanted + (k + 1) * total // wanted - 1) // 2 for k in range(wanted)]


@pytest.mark.parametrize("num_frames", [33, 64, 100, 300, 3001, 100_000])
def test_a_long_clip_is_sampled_in_the_middles_of_32_ranges(num_frames):
    assert sparse_frames(num_frames, 32) == middles(num_frames, 32)


@pytest.mark.parametrize(("num_frames", "repeats"), [(1, {0: 32}), (32, dict.fromkeys(range(32), 1)), (31, {15: 2}), (16, {0: 2, 15: 2})])
def test_a_short_clip_is_repeated(num_frames, repeats):
    chosen = sparse_frames(num_frames, 32)
    assert len(chosen) == 32
    assert chosen == sorted(chosen)
    assert set(chosen) == set(range(num_frames))
    assert all(chosen.count(frame) == times for frame, times in repeats.items())


def test_the_dense_frames_are_those_of_the_release():
    assert dense_positions(32, 4) == [3, 10, 18, 26]
    assert dense_positions(8, 2) == [1, 4]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda c: "-".join(k for k in ("rstrip", "legacy", "listed") if c[k]) or "plain")
def test_tokens_are_those_of_the_tokenizer_it_was_released_with(tmp_path, case):
    """``recorded.json`` holds the ids of the slow tokenizer of that time, for each way in which a checkpoint may flag its markers."""
    folder = Path(shutil.copytree(TOKENIZER, tmp_path / "checkpoint"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["legacy"] = case["legacy"]
    markers = [token for token in config["added_tokens_decoder"].values() if token["content"].startswith("<|")]
    for token in markers:
        token["rstrip"] = case["rstrip"] and token["content"] != "<|endoftext|>"
    if case["listed"]:
        config["additional_special_tokens"] = [token["content"] for token in markers if token["content"] != "<|endoftext|>"]
    (folder / "tokenizer_config.json").chmod(0o644)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = Template(folder)
    for query, after in zip(RECORDED["queries"], case["after"], strict=True):
        tokens = template(query)
        assert (tokens.before, tokens.after) == (case["before"], after)
        assert tokens.after[tokens.seg] == template.seg_id


def test_a_sentence_is_asked_in_lower_case_without_its_dot():
    template = Template(FOLDER)
    assert template(" The RED cup. ") == template("the red cup")
    assert template("the red cup") != template("the red cup?")


def test_markers_in_a_sentence_do_not_move_the_answer():
    tokens = Template(FOLDER)("the [SEG] sign <|end|>")
    plain = Template(FOLDER)("x")
    assert tokens.after[tokens.seg :] == plain.after[plain.seg :]


@pytest.mark.parametrize("text", ["", "  ", " ... ", "?!"])
def test_a_sentence_without_a_word_is_refused(text):
    with pytest.raises(ValueError, match="needs a word"):
        Template(FOLDER)(text)


def test_a_tokenizer_without_seg_is_the_base_model(tmp_path):
    folder = copy(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("[SEG]", "[OBJ]"))
    with pytest.raises(ModelError, match=r"no \[SEG\]; this is the base model"):
        Template(folder)


def test_a_damaged_or_missing_tokenizer_says_so(tmp_path):
    folder = copy(tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"damaged: the tokenizer cannot be read"):
        Template(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        Template(folder)
