"""The checks of one batch of rows against the column contract, vectorised; only offending rows are looked at one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import COLUMNS, MAX_ID_CHARACTERS, Layout, normalise
from batchgen.manifest.problems import Problems, shorten
from batchgen.manifest.utf8 import replace, undecodable

Rows = npt.NDArray[np.int64]

_END_AND_SPACE = 2  # tokens a tokenizer adds: the end and the leading space
_MAX_SEQUENCE_LENGTH = 512  # what model.max_sequence_length accepts


class Checks:
    """The contract's checks, and the counts that fall out of them."""

    def __init__(
        self, columns: Layout, max_tokens: int, long_prompts: str, count_tokens: Callable[[str], int], pixel_multiple: int
    ) -> None:
        self._columns = columns
        self._max_tokens = max_tokens
        self._refuse = long_prompts == "refuse"
        self._count_tokens = count_tokens
        self._pixel_multiple = pixel_multiple
        self.over_long = 0
        self.prompt_bytes = 0

    def batch(self, batch: pa.RecordBatch, place: Callable[[int], str], problems: Problems) -> pa.Array | None:
        """Check a batch; `place` names a row of it in messages. Gives the ids that can be compared, None without any."""
        report = _Report(place, problems)
        ids = None
        for name in self._columns.contract:
            kind = COLUMNS[name].kind
            if kind == "string":
                texts = self._texts(batch, name, report)
                ids = texts if name == "id" else ids
            else:
                self._numbers(batch.column(name), name, report)
        for name in self._columns.extra.names:
            report.rows(undecodable(batch.column(name)), name, lambda _: "is not valid UTF-8, or damaged; write the column again")
        problems.end_batch()
        return ids

    def _texts(self, batch: pa.RecordBatch, name: str, report: _Report) -> pa.Array:
        texts = normalise(batch.column(name), name)
        broken = undecodable(texts)
        if len(broken):
            report.rows(broken, name, lambda _: f"is not valid UTF-8; expected {COLUMNS[name].accepted}")
            texts = replace(texts, broken, None if name == "id" else "?")
        nul = _where(pc.match_substring(texts, "\0"))
        report.rows(nul, name, lambda row: f"{shorten(texts[row].as_py())} holds a NUL character, which text encoders cannot read")
        if name == "id":
            self._ids(texts, report)
            return texts
        if name == "prompt":
            self._blank(texts, report)
            self.prompt_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
        self._lengths(texts, name, report)
        return texts

    def _blank(self, prompts: pa.Array, report: _Report) -> None:
        blank = pc.or_(pc.equal(pc.binary_length(prompts), 0), pc.utf8_is_space(prompts)).fill_null(True)
        report.rows(_where(blank), "prompt", lambda row: f"{_empty(prompts[row].as_py())}; expected {COLUMNS['prompt'].accepted}")

    def _ids(self, ids: pa.Array, report: _Report) -> None:
        lengths = pc.utf8_length(ids)
        long = _where(pc.greater(lengths, MAX_ID_CHARACTERS))
        report.rows(long, "id", lambda row: f"{shorten(ids[row].as_py())}; expected {COLUMNS['id'].accepted}")
        control = _where(pc.match_substring_regex(ids, r"[\x01-\x1f\x7f-\x{9f}]"))
        report.rows(control, "id", lambda row: f"{shorten(ids[row].as_py())} holds a control character; expected {COLUMNS['id'].accepted}")

    def _lengths(self, texts: pa.Array, name: str, report: _Report) -> None:
        """Tokenize the texts whose bytes could be too many tokens: a token takes a byte at least."""
        doubtful = _where(pc.greater(most_bytes(texts), self._max_tokens - _END_AND_SPACE))
        tokens = {row: self._count_tokens(texts[row].as_py()) for row in doubtful.tolist()}
        over = [row for row, count in tokens.items() if count > self._max_tokens]
        self.over_long += len(over)
        if self._refuse:
            report.rows(np.array(over, np.int64), name, lambda row: self._too_long(tokens[row]))

    def _too_long(self, tokens: int) -> str:
        longer = f"or --set model.max_sequence_length={tokens}, " if tokens <= _MAX_SEQUENCE_LENGTH else ""
        return f"{tokens} tokens, the limit is {self._max_tokens}: shorten it, {longer}or --set model.long_prompts=truncate"

    def _numbers(self, found: pa.Array, name: str, report: _Report) -> None:
        column, array = COLUMNS[name], normalise(found, name)
        low, high = column.low or 0, column.high or 0
        values = array.fill_null(low).to_numpy(zero_copy_only=False)
        good = (values >= low) & (values <= high)
        accepted = column.accepted
        if name in ("width", "height"):
            good &= (values % self._pixel_multiple == 0) | ~array.is_valid().to_numpy(zero_copy_only=False)
            accepted = accepted.replace("multiple of 16", f"multiple of {self._pixel_multiple}")
        report.rows(np.flatnonzero(~good), name, lambda row: f"{found[row].as_py()}; expected {accepted}")


class _Report:
    """Problems of one batch, with their places."""

    def __init__(self, place: Callable[[int], str], problems: Problems) -> None:
        self._place = place
        self._problems = problems

    def rows(self, rows: Rows, column: str, describe: Callable[[int], str]) -> None:
        if len(rows):
            self._problems.rows(rows.tolist(), lambda row: f"{self._place(row)}, column {column}: {describe(row)}")


def most_bytes(texts: pa.Array) -> pa.Array:
    """UTF-8 bytes of each text as a tokenizer sees it: T5's applies NFKC, which makes 33 bytes of U+FDFA's 3. ASCII stays."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return pc.binary_length(texts)
    return pc.max_element_wise(pc.binary_length(texts), pc.binary_length(pc.utf8_normalize(texts, "NFKC")))


def _where(mask: pa.Array) -> Rows:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))


def _empty(text: str | None) -> str:
    return "is null" if text is None else "is empty" if text == "" else "holds only whitespace"
