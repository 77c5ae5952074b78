"""Tokens of long prompts are bounded by those of their words: never below what they have."""

from collections.abc import Sequence

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from batchgen.manifest import Limits, words
from batchgen.manifest.words import Words
from batchgen.model import TINY, CountWords
from batchgen.model.checkpoint import resolve
from batchgen.model.token_counter import TokenCounter
from batchgen.settings.job import Model
from tests.manifest.validation import validate
from tests.support.rehearsal import write_prompts
from tests.support.tiny_family import byte_tokenizer

QWEN = (
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = ["a red circle", "it's “quoted”, 12 of 30 — naïve", "reded bleble red", "é", "x" * 40]
OTHERS = ["two  spaces", " first", "last ", "a\nline", "a\ttab", "no\u00a0break", "\u3000wide"]
TEMPLATE = "user\n{}<|im_end|>\nassistant\n"


def counter(tokenizer: Tokenizer, template: str = "{}") -> TokenCounter:
    return TokenCounter(tokenizer, template.format)


def tokenizers() -> dict[str, Tokenizer]:
    qwen = Tokenizer.from_str(byte_tokenizer().backend_tokenizer.to_str())
    qwen.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return {
        "bytes": byte_tokenizer().backend_tokenizer,
        "as Qwen's": qwen,
        "embedded": Tokenizer.from_file(str(TINY / "tokenizer_2" / "tokenizer.json")),
    }


@pytest.mark.parametrize("name", tokenizers())
@pytest.mark.parametrize("template", ["{}", TEMPLATE, "draw{}now"])
def test_no_prompt_has_more_tokens_than_its_words(name: str, template: str) -> None:
    count = counter(tokenizers()[name], template)
    assert count.words is not None
    around, found = len(template.format("").encode()), Words(count.words)
    for _ in range(2):  # counted, and looked up
        for prompt, most in zip(PLAIN, found.most_tokens(pa.array(PLAIN)), strict=True):
            assert count(prompt) <= most + around + 2


def test_words_between_the_first_and_the_last_are_counted_and_not_measured() -> None:
    def count(given: Sequence[str]) -> list[int]:
        return [1 if word == " circle" else 5 for word in given]

    prompts = ["ab circle circle circle yz", "ab circle", "circle", "éa circle circle"]
    bytes_of_ends = [4, 2 + 6, 6, 3 * 11 + 6]
    assert Words(count).most_tokens(pa.array(prompts)).tolist() == [
        7, bytes_of_ends[1], bytes_of_ends[2], bytes_of_ends[3] + 1
    ]  # fmt: skip


def test_other_white_space_leaves_it_open() -> None:
    found = Words(lambda given: [1] * len(given)).most_tokens(pa.array([*OTHERS, "a b c"]))
    assert all(found[:-1] > 10**9)
    assert found[-1] == 3


def test_words_are_forgotten_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_REMEMBERED", 3)
    asked: list[str] = []
    found = Words(lambda given: [asked.append(word) or 1 for word in given])
    for prompts in (["a b c d"], ["a b c d"]):
        assert found.most_tokens(pa.array(prompts)).tolist() == [4]
    assert asked == [" a", " b", " c", " d"] * 2


@pytest.mark.parametrize(
    "rule",
    [
        None,
        pre_tokenizers.Split(Regex(r"\w+ ?"), "isolated"),
        pre_tokenizers.Split(Regex(r"— \w+|\w+"), "isolated"),
    ],
)
def test_a_tokenizer_whose_parts_span_spaces_counts_whole_prompts(rule: object) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if rule is not None:
        tokenizer.pre_tokenizer = rule
    assert counter(tokenizer).words is None
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert counter(tokenizer).words is not None
    tokenizer.add_tokens(["red circle"])
    assert counter(tokenizer).words is None


def test_only_prompts_that_may_be_too_long_are_tokenized(tmp_path) -> None:
    """Of 100 bytes each, with a limit of 40 tokens."""
    prompts = ["circle " * 13 + "circle", "o c " * 24 + "end", "x" * 100]
    counted: list[str] = []

    def count_words(given: Sequence[str]) -> list[int]:
        return [1] * len(given)

    def check(known: CountWords | None) -> list[str]:
        counted.clear()
        file = write_prompts(tmp_path / "p.parquet", prompts)
        given = {"max_tokens": 40, "limits": Limits(count_words=known)}
        validate(file, count_tokens=lambda it: counted.append(it) or 1, **given)
        return [prompts.index(each) for each in counted]

    assert check(None) == [0, 1, 2]
    assert check(count_words) == [1, 2]


def test_the_embedded_models_prompts_are_counted_by_words() -> None:
    assert resolve(Model()).token_counter().words is not None
