"""What a tokenizer has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """A tokenizer: what loads it as it was made."""

    # Classes of transformers for it.
    class_names: tuple[str, ...]
    # What these classes presume, whatever the files hold: `type` of the model in tokenizer.json ...
    model: str
    # ... and special tokens.
    special_tokens: Mapping[str, str]
    # The class of transformers that a pipeline may have around the tokenizer, for pictures.
    processor: str = ""


# Classes that take every tokenizer.json as it is.
ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")

CLIP_TOKENIZER = TokenizerKind(
    ("CLIPTokenizer", "CLIPTokenizerFast"),
    model="BPE",
    special_tokens={
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
)
T5_TOKENIZER = TokenizerKind(
    ("T5Tokenizer", "T5TokenizerFast"),
    model="Unigram",
    special_tokens={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
)
QWEN_TOKENIZER = TokenizerKind(
    ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    model="BPE",
    special_tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
)
MISTRAL_TOKENIZER = TokenizerKind(
    ("LlamaTokenizer", "LlamaTokenizerFast"),
    model="BPE",
    special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    processor="PixtralProcessor",
)
