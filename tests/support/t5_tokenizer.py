"""A T5 tokenizer with the files that older versions of transformers wrote, as Chroma1-HD's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece

from tests.support.stock import PROMPTS

EXTRA = [f"<extra_id_{number}>" for number in range(3)]


def save_t5_tokenizer(folder: Path) -> int:
    """A T5 tokenizer as Chroma1-HD has it: pieces, and no tokenizer.json. Return its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*PROMPTS, "a blue circle, é, {1}"] * 4),
        model_writer=written,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    numbers = {token: len(pieces) + place for place, token in enumerate(reversed(EXTRA))}
    added = dict(enumerate(special[f"{name}_token"] for name in ("pad", "eos", "unk")))
    added |= {number: token for token, number in numbers.items()}
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = special | {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": len(EXTRA),
        "additional_special_tokens": EXTRA,
        "legacy": True,
        "model_max_length": 512,
        "added_tokens_decoder": {
            str(number): plain | {"content": token, "special": True}
            for number, token in added.items()
        },
    }
    files = {
        "tokenizer_config.json": settings,
        "special_tokens_map.json": special | {"additional_special_tokens": EXTRA},
        "added_tokens.json": numbers,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return len(pieces) + len(EXTRA)
