"""VideoLISA against what its released code gives for the same tiny weights and frames, step by step."""

import numpy as np
import pytest
import torch

from egoray.core.masks import decode
from egoray.models.published import read_config, read_weights
from egoray.models.videolisa.grounder import VideoLisa
from egoray.models.videolisa.network import visual_tokens
from egoray.models.videolisa.pictures import ClipPictures, full_size, sam_pixels
from egoray.models.videolisa.prompt import Template, dense_positions, sparse_frames
from egoray.models.videolisa.weights import build, split
from support.clips import ArrayClip
from support.videolisa import FOLDER, QUESTION, SIZES, recorded

TOLERANCE = 3e-6


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def net():
    parts = split(read_weights(FOLDER), "golden")
    return build(parts, read_config(FOLDER), read_config(FOLDER / "clip"), "golden", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def given():
    return recorded("inputs")


@pytest.fixture(scope="module")
def expected():
    return recorded("outputs")


@pytest.fixture(scope="module")
def asked():
    return Template(FOLDER)(QUESTION)


@pytest.fixture(scope="module")
def pictures(net, given, expected):
    images = [given["frames"][frame] for frame in sparse_frames(len(given["frames"]), SIZES["num_sparse"])]
    pixels = ClipPictures(FOLDER / "clip", 336)(images)
    close(pixels[0], given["clip_frame0"])
    with torch.inference_mode():
        looked = net.look(pixels)
        close(looked[0], expected["clip_tokens_frame0"])
        seen = net.projector(looked)
    close(seen[0], expected["proj_frame0"])
    return visual_tokens(seen, dense_positions(*SIZES.values()))


def test_the_prompt_has_the_same_tokens(asked, given):
    assert [*asked.before, -200, *asked.after] == given["input_ids"][0].tolist()


def test_the_language_model_answers_the_same(net, asked, pictures, expected):
    with torch.inference_mode():
        sequence = torch.cat([net.embed(asked.before, pictures), net.embed(asked.after)], dim=1)
        logits = net.llm(inputs_embeds=sequence).logits[0]
    close(logits[-1:], expected["logits_last"])
    close(logits[-12:], expected["logits_tail"])


def test_seg_says_the_same_to_the_mask_decoder(net, asked, pictures, expected):
    with torch.inference_mode():
        close(net.seg_embeddings([asked], pictures), expected["seg_embedding"])


def test_the_mask_decoder_draws_the_same(net, given, expected):
    embedding = torch.from_numpy(expected["seg_embedding"])
    for frame, image in enumerate(given["frames"]):
        pixels = sam_pixels(image, 256)
        with torch.inference_mode():
            features = net.scene(pixels[None])
            low = net.masks(features, embedding)[0]
        if frame == 0:
            close(pixels, given["sam_frame0"])
            close(features[0], expected["sam_image_embedding_frame0"])
        close(low, expected["low_res_masks"][frame])
        close(full_size(low, (60, 80), 256)[0], expected["mask_logits"][frame])


def test_from_frames_and_sentence_to_the_same_masks(given, expected):
    clip = ArrayClip(given["frames"])
    (found,) = VideoLisa(str(FOLDER), **SIZES).ground(clip, [QUESTION])
    true = expected["mask_logits"] > 0
    assert true.any(axis=(1, 2)).all()  # so that each frame must have a mask
    assert np.array_equal(np.stack([decode(found.masks[frame]) for frame in range(6)]), true)
    chance = 1 / (1 + np.exp(-expected["mask_logits"]))
    assert [found.scores[frame] for frame in range(6)] == pytest.approx([p[m].mean() for p, m in zip(chance, true, strict=True)], abs=1e-5)
    assert found.detection is None
