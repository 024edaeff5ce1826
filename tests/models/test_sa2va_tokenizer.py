"""InternLM2's tokenizer without its remote code: the same ids as sentencepiece itself gives, special tokens apart."""

import json

import pytest
import sentencepiece

from egoray.errors import ModelError
from egoray.models.sa2va.prompt import ask, encode, read_tokenizer

SPECIAL = ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "[SEG]", "<p>", "</p>", "<vp>", "</vp>"]
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SIZE = 330


def write(folder, special):
    text = ["Please segment the red mug in this image.", "user and assistant say hello to the world", "what is the red thing"] * 30
    (folder / "text.txt").write_text("\n".join(text))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=SIZE,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    kept = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(SIZE + n): {"content": token, **kept} for n, token in enumerate(special)}
    config = {"tokenizer_class": "InternLM2Tokenizer", "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_ids_are_sentencepieces_own(tmp_path):
    write(tmp_path, SPECIAL)
    tokenizer = read_tokenizer(tmp_path)
    ids = encode(tokenizer, ask("Red mug.", TURN, 2, 3), internlm2=True).tolist()
    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    number = {token: SIZE + n for n, token in enumerate(SPECIAL)}
    frame = [number["<img>"], *[number["<IMG_CONTEXT>"]] * 3, number["</img>"]]
    expected = [plain.bos_id(), number["<|im_start|>"], *plain.encode("user\n"), *frame, *plain.encode("\n"), *frame]
    expected += [*plain.encode(" Please segment the red mug in this image."), number["<|im_end|>"], *plain.encode("\n")]
    assert ids == [*expected, number["<|im_start|>"], *plain.encode("assistant\n")]


def test_a_tokenizer_without_seg_is_refused(tmp_path):
    write(tmp_path, [token for token in SPECIAL if token != "[SEG]"])
    with pytest.raises(ModelError, match=r"the tokenizer has no \[SEG\]"):
        read_tokenizer(tmp_path)
