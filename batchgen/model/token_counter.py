"""Tokens of prompts, and of single words where a tokenizer takes texts apart at spaces.

There the tokens of a text are those of its words, and most words have been counted before: a text
costs a hundredth of what it would take to tokenize it (`manifest/words.py`). Nearly all tokenizers
do so: a rule splits the text first, and the vocabulary sees one part at a time. The rule is tried
on the characters that prompts hold beside a space, and not guessed from its name.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

# From words, each with the space before it, to their tokens.
CountWords = Callable[[Sequence[str]], list[int]]

# What is tried on either side of a space: ASCII, and a few of every other kind.
_BESIDE = string.ascii_letters + string.digits + string.punctuation + "éß中あ한—“”’°٣²😀\u0301"


class TokenCounter:
    """Counts the tokens of a prompt, with the end token or the template's."""

    def __init__(
        self, tokenizer: Tokenizer, render: Callable[[str], str], begin: str = "", unread: int = 0
    ) -> None:
        """:param render: from a prompt to what the tokenizer is given.
        :param begin: the token of the beginning. A text that begins with it has all the special
            tokens that it needs.
        :param unread: how many tokens, the first ones, are not counted.
        """
        self._tokenizer, self._render, self._begin = tokenizer, render, begin
        self._unread = unread
        # Counts the tokens of words; None where texts are not taken apart at spaces.
        self.words: CountWords | None = self._words if _splits_at_spaces(tokenizer) else None

    def __call__(self, prompt: str) -> int:
        """The number that `model.max_sequence_length` limits. No family encodes less than one."""
        text = self._render(prompt)
        complete = bool(self._begin) and text.startswith(self._begin)
        tokens = len(self._tokenizer.encode(text, add_special_tokens=not complete).ids)
        return max(1, tokens - self._unread)

    def _words(self, words: Sequence[str]) -> list[int]:
        every = self._tokenizer.encode_batch_fast(list(words), add_special_tokens=False)
        return [len(word) for word in every]


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether no part of a text spans a single space: it may begin with one."""
    rule, added = tokenizer.pre_tokenizer, tokenizer.get_added_tokens_decoder().values()
    if rule is None or any(" " in token.content for token in added):
        return False
    for before in _BESIDE:
        text = " ".join(f"{after}x{before}" for after in _BESIDE)
        parts = (part for _, part in rule.pre_tokenize_str(text))
        if any(" " in text[begin + 1 : end] for begin, end in parts):
            return False
    return True
