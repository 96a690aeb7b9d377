"""A model of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.families._candidate import Candidate
from benchmarks.families._inputs import Inputs


def of_sentence_transformers() -> list[Candidate]:
    def make() -> nn.Module:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
        from transformers import BertConfig, BertModel, BertTokenizerFast

        with TemporaryDirectory() as folder:
            special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            words = Path(folder, "vocab.txt")
            words.write_text("\n".join([*special, *(f"word{i}" for i in range(45))]))
            BertTokenizerFast(str(words)).save_pretrained(folder)
            config = BertConfig(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                intermediate_size=32,
            )
            BertModel(config).save_pretrained(folder)
            return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")

    def sentences() -> Inputs:
        mask = torch.ones(2, 7, dtype=torch.long)
        mask[0, 5:] = 0
        return ({"input_ids": torch.randint(5, 50, (2, 7)), "attention_mask": mask},), {}

    return [Candidate("SentenceTransformer of Bert and mean pooling", make, sentences)]
