"""A tiny random Grounding DINO in the published layout."""

import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    SwinConfig,
)
from transformers.utils import logging

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "the", "red", "blue", "mug", "box", "book", "on", "table"]


def write_tiny_dino(folder, seed=0, side=64):
    """Write the checkpoint into ``folder``; images are fed with their shorter side at ``side`` px. Returns the folder."""
    torch.manual_seed(seed)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]),
        text_config=BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        num_queries=12,
        max_text_len=32,
    )
    model = GroundingDinoForObjectDetection(config)
    for parameter in model.parameters():  # a fresh one says the same of every image
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(size={"shortest_edge": side, "longest_edge": 2 * side}), tokenizer)
    processor.save_pretrained(folder)
    return folder
