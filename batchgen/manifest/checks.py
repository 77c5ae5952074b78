"""The checks of one batch of rows against the column contract, vectorised; only offending rows are looked at one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import COLUMNS, MAX_ID_CHARACTERS, Columns, normalise
from batchgen.manifest.problems import Problems, shorten
from batchgen.manifest.utf8 import replace, undecodable
from batchgen.settings import MAX_SIDE_PX, Sampling

Rows = npt.NDArray[np.int64]

_END_AND_SPACE = 2  # tokens a tokenizer adds: the end and the leading space
_MAX_SEQUENCE_LENGTH = 512  # what model.max_sequence_length accepts
NO_TRUE_CFG = (
    "this family has one guidance scale: give it as guidance, and leave true_cfg out or at 1"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model takes of a row; the defaults are what any model may be asked for."""

    pixel_multiple: int = 16  # of width and height
    most_px: int = MAX_SIDE_PX  # a side
    true_cfg: bool = True  # whether a true_cfg over 1 means anything

    @property
    def side(self) -> str:
        """Which width or height is accepted."""
        return f"px, a multiple of {self.pixel_multiple} from {self.pixel_multiple} to {self.most_px} for this model"

    def wrong_sides(self, sides: Rows) -> npt.NDArray[np.bool_]:
        """Widths or heights [R] that the model cannot paint."""
        wrong: npt.NDArray[np.bool_] = (
            (sides % self.pixel_multiple != 0)
            | (sides < self.pixel_multiple)
            | (sides > self.most_px)
        )
        return wrong


class Checks:
    """The contract's checks, and the counts that fall out of them."""

    def __init__(
        self,
        columns: Columns,
        sampling: Sampling,
        max_tokens: int,
        long_prompts: str,
        count_tokens: Callable[[str], int],
        limits: Limits,
    ) -> None:
        self._columns = columns
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._refuse = long_prompts == "refuse"
        self._count_tokens = count_tokens
        self._limits = limits
        self.over_long = 0
        self.prompt_bytes = 0

    def batch(
        self, batch: pa.RecordBatch, place: Callable[[int], str], problems: Problems
    ) -> pa.Array | None:
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
            report.rows(
                undecodable(batch.column(name)),
                name,
                lambda _: "is not valid UTF-8, or damaged; write the column again",
            )
        problems.end_batch()
        return ids

    def _texts(self, batch: pa.RecordBatch, name: str, report: _Report) -> pa.Array:
        texts = normalise(batch.column(name), name)
        broken = undecodable(texts)
        if len(broken):
            report.rows(
                broken, name, lambda _: f"is not valid UTF-8; expected {COLUMNS[name].accepted}"
            )
            texts = replace(texts, broken, None if name == "id" else "?")
        nul = _where(pc.match_substring(texts, "\0"))
        report.rows(
            nul,
            name,
            lambda row: (
                f"{shorten(texts[row].as_py())} holds a NUL character, which text encoders cannot read"
            ),
        )
        if name == "id":
            self._ids(texts, report)
            return texts
        if name == "prompt":
            self._blank(texts, report)
            self.prompt_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
        self._lengths(texts, name, report)
        return texts

    def _blank(self, prompts: pa.Array, report: _Report) -> None:
        blank = pc.or_(pc.equal(pc.binary_length(prompts), 0), pc.utf8_is_space(prompts)).fill_null(
            True
        )
        report.rows(
            _where(blank),
            "prompt",
            lambda row: f"{_empty(prompts[row].as_py())}; expected {COLUMNS['prompt'].accepted}",
        )

    def _ids(self, ids: pa.Array, report: _Report) -> None:
        lengths = pc.utf8_length(ids)
        long = _where(pc.greater(lengths, MAX_ID_CHARACTERS))
        report.rows(
            long,
            "id",
            lambda row: f"{shorten(ids[row].as_py())}; expected {COLUMNS['id'].accepted}",
        )
        control = _where(pc.match_substring_regex(ids, r"[\x01-\x1f\x7f-\x{9f}]"))
        report.rows(
            control,
            "id",
            lambda row: (
                f"{shorten(ids[row].as_py())} holds a control character; expected {COLUMNS['id'].accepted}"
            ),
        )

    def _lengths(self, texts: pa.Array, name: str, report: _Report) -> None:
        """Tokenize the texts whose bytes could be too many tokens: a token takes a byte at least."""
        doubtful = _where(pc.greater(most_bytes(texts), self._max_tokens - _END_AND_SPACE))
        tokens = {row: self._count_tokens(texts[row].as_py()) for row in doubtful.tolist()}
        over = [row for row, count in tokens.items() if count > self._max_tokens]
        self.over_long += len(over)
        if self._refuse:
            report.rows(np.array(over, np.int64), name, lambda row: self._too_long(tokens[row]))

    def _too_long(self, tokens: int) -> str:
        longer = (
            f"or --set model.max_sequence_length={tokens}, "
            if tokens <= _MAX_SEQUENCE_LENGTH
            else ""
        )
        return f"{tokens} tokens, the limit is {self._max_tokens}: shorten it, {longer}or --set model.long_prompts=truncate"

    def _numbers(self, found: pa.Array, name: str, report: _Report) -> None:
        column, array = COLUMNS[name], normalise(found, name)
        if name in ("width", "height"):
            self._sides(found, array, name, report)
            return
        low, high = column.low or 0, column.high or 0
        values = array.fill_null(low).to_numpy(zero_copy_only=False)
        good = (values >= low) & (values <= high)
        report.rows(
            np.flatnonzero(~good),
            name,
            lambda row: f"{found[row].as_py()}; expected {column.accepted}",
        )
        if name == "true_cfg" and not self._limits.true_cfg:
            report.rows(
                np.flatnonzero(good & (values > 1)),
                name,
                lambda row: f"{found[row].as_py()}; {NO_TRUE_CFG}",
            )

    def _sides(self, found: pa.Array, array: pa.Array, name: str, report: _Report) -> None:
        """Widths or heights, those that the job gives included."""
        default: int = getattr(self._sampling, name)
        wrong = self._limits.wrong_sides(array.fill_null(default).to_numpy(zero_copy_only=False))

        def describe(row: int) -> str:
            given = found[row].as_py()
            return f"{f'null, and sampling.{name} = {default}' if given is None else given}; expected {self._limits.side}"

        report.rows(np.flatnonzero(wrong), name, describe)


class _Report:
    """Problems of one batch, with their places."""

    def __init__(self, place: Callable[[int], str], problems: Problems) -> None:
        self._place = place
        self._problems = problems

    def rows(self, rows: Rows, column: str, describe: Callable[[int], str]) -> None:
        if len(rows):
            self._problems.rows(
                rows.tolist(), lambda row: f"{self._place(row)}, column {column}: {describe(row)}"
            )


def most_bytes(texts: pa.Array) -> pa.Array:
    """UTF-8 bytes of each text as a tokenizer sees it: T5's applies NFKC, which makes 33 bytes of U+FDFA's 3. ASCII stays."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return pc.binary_length(texts)
    return pc.max_element_wise(
        pc.binary_length(texts), pc.binary_length(pc.utf8_normalize(texts, "NFKC"))
    )


def _where(mask: pa.Array) -> Rows:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))


def _empty(text: str | None) -> str:
    return "is null" if text is None else "is empty" if text == "" else "holds only whitespace"
