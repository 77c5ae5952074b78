"""Two word-level tokenizers over the few dozen words that captions have.

Both write a caption in lower case, split it at all that is no letter, and look up the words. They
are saved as transformers' generic fast tokenizer: its `CLIPTokenizer` and `T5Tokenizer` would
rebuild themselves on load as BPE and Unigram models without the lower case.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from training.scenes import COLOURS, COUNTS, PLACES, SHAPES

ARTICLES = ("a", "an", "one", "the")
RELATIONS = ("of", "on", "in", "at", "to", "with", "and", "left", "right", "above", "below", "next")
NOUNS = ("picture", "background")


def words() -> list[str]:
    """Return every word the model knows, sorted."""
    things = [form for shape in SHAPES for form in (shape, f"{shape}s")]
    places = [word for place in PLACES for word in place.split()]
    return sorted({*ARTICLES, *RELATIONS, *NOUNS, *COLOURS, *things, *places, *COUNTS.values()})


def graph(specials: list[str], template: str) -> Tokenizer:
    """Make a word-level tokenizer whose first ids are the special tokens, in their order."""
    ids = {word: index for index, word in enumerate([*specials, *words()])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Split(Regex("[^a-z]+"), "removed")
    tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(token, ids[token]) for token in specials]
    )
    return tokenizer


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Make CLIP's tokenizer: the model reads a caption's vector at its first end token."""
    return PreTrainedTokenizerFast(
        tokenizer_object=graph(
            ["<|startoftext|>", "<|endoftext|>", "<unk>"], "<|startoftext|> $A <|endoftext|>"
        ),
        model_max_length=77,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
    )


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Make T5's tokenizer, with the ids of its special tokens: pad 0, end 1, unknown 2."""
    return PreTrainedTokenizerFast(
        tokenizer_object=graph(["<pad>", "</s>", "<unk>"], "$A </s>"),
        model_max_length=512,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
