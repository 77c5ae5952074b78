"""An upper bound for the tokens of long prompts, from the tokens of their words.

A tokenizer takes a quarter of a millisecond for a hundred words: ten minutes for two million
prompts. Their words are counted once, and looked up ever after.

A prompt may stand in a template, whose text may grow together with the first and the last word.
These two are counted by their bytes: a token takes at least one.

Not covered: prompts with other white space than single spaces between words, and languages that
write without spaces. Their tokens are counted one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.model import CountWords

Ints = npt.NDArray[np.int64]

# Words, and single spaces between them.
_PLAIN = r"^[^\s\p{Z}\p{C}]+( [^\s\p{Z}\p{C}]+)*$"
# NFKC, which some tokenizers apply, makes 33 bytes of U+FDFA's 3.
_MOST_GROWTH = 11
# Words that are remembered; prompts may hold numbers that no other prompt has.
_REMEMBERED = 1_000_000
_MANY = np.iinfo(np.int64).max


class Words:
    """The words of a manifest's prompts, and their tokens."""

    def __init__(self, count: CountWords) -> None:
        """:param count: tokens of words, each with the space before it."""
        self._count = count
        self._known: dict[str, int] = {}

    def most_tokens(self, texts: pa.Array) -> Ints:
        """No fewer tokens than each text has; where that is not known, more than any limit.

        :param texts: strings without nulls.
        """
        most: Ints = np.full(len(texts), _MANY, np.int64)
        plain = pc.match_substring_regex(texts, _PLAIN).to_numpy(zero_copy_only=False)
        if not plain.any():
            return most
        words = pc.split_pattern(texts.filter(pa.array(plain)), " ")
        starts = words.offsets.to_numpy()[:-1] - words.offsets[0].as_py()
        lasts = np.append(starts[1:], len(words.flatten())) - 1
        distinct = words.flatten().dictionary_encode()
        which = distinct.indices.to_numpy()
        tokens, edges = self._tokens(distinct.dictionary)[which], _bytes(distinct.dictionary)[which]
        for ends in (starts, lasts):
            tokens[ends] = edges[ends]
        most[plain] = np.add.reduceat(tokens, starts)
        return most

    def _tokens(self, words: pa.Array) -> Ints:
        """Tokens of distinct words."""
        texts = words.to_pylist()
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        if new := [text for text in texts if text not in self._known]:
            self._known.update(zip(new, self._count([f" {text}" for text in new]), strict=True))
        return np.fromiter((self._known[text] for text in texts), np.int64, len(texts))


def _bytes(words: pa.Array) -> Ints:
    """No fewer bytes than a tokenizer may see of each word."""
    lengths: Ints = pc.binary_length(words).to_numpy().astype(np.int64)
    ascii_only = pc.string_is_ascii(words).to_numpy(zero_copy_only=False)
    return np.where(ascii_only, lengths, lengths * _MOST_GROWTH)
