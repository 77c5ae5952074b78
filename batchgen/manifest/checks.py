"""Check one batch of rows against the columns' contract, column by column.

Arrow and numpy check whole columns. Only rows that break the contract are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import JobError, one_line
from batchgen.manifest.columns import Columns, column_label
from batchgen.manifest.contract import (
    COLUMNS,
    DEFAULTED,
    MAX_ID_CHARACTERS,
    inexact,
    normalise,
    stand_in,
)
from batchgen.manifest.problems import ColumnReport, Place, Problems, Rows, shorten
from batchgen.manifest.utf8 import replace, undecodable
from batchgen.manifest.words import Words
from batchgen.model import CountWords, Guidance
from batchgen.settings import MAX_SIDE_PX, Sampling

# Tokens that a tokenizer adds: the end, and a space at the beginning.
_ADDED_TOKENS = 2
# What model.max_sequence_length accepts.
_MAX_SEQUENCE_LENGTH = 512
_NO_TRUE_CFG = (
    "this family has one guidance scale: give it as guidance, and leave true_cfg out or at 1"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model accepts of a row; the defaults are what some model accepts."""

    # Widths and heights are multiples of this.
    pixel_multiple: int = 16
    # The largest width or height, in pixels.
    most_px: int = MAX_SIDE_PX
    # How the model is guided; None: by every value.
    guidance: Guidance | None = None
    # What stands around a prompt when its tokens are counted: the bytes of a chat template.
    template_bytes: int = 0
    # How the tokens of words are counted; None: only whole texts can be.
    count_words: CountWords | None = None

    @property
    def accepted_sides(self) -> str:
        """Say which widths and heights are accepted."""
        multiple = self.pixel_multiple
        return f"px, a multiple of {multiple} from {multiple} to {self.most_px} for this model"

    def wrong_sides(self, sides: Rows) -> npt.NDArray[np.bool_]:
        """Tell which of R widths or heights the model cannot make."""
        in_range = (sides >= self.pixel_multiple) & (sides <= self.most_px)
        wrong: npt.NDArray[np.bool_] = ~in_range | (sides % self.pixel_multiple != 0)
        return wrong


@dataclass(slots=True)
class Checks:
    """The contract's checks, with the parameters of `validate_manifest`."""

    columns: Columns
    sampling: Sampling
    limits: Limits
    max_tokens: int
    refuse_long: bool
    count_tokens: Callable[[str], int]
    # Texts over `max_tokens` found so far.
    over_long: int = 0
    _words: Words | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if count := self.limits.count_words:
            self._words = Words(count)

    def check(
        self, batch: pa.RecordBatch, place: Place, problems: Problems, first_row: int
    ) -> pa.Array | None:
        """Report the problems of a batch.

        :param place: where each row of the batch stands, for messages.
        :param first_row: the number of the batch's first row over all files.
        :returns: the ids, null where they are not UTF-8; None if there is no column of ids.
        """
        checked = {}
        with problems.batch(place, first_row) as report:
            for name, column in self.columns.used.items():
                told = partial(report, column_label(name, column))
                checked[name] = self._check_column(batch.column(column), name, told)
            for column in self.columns.travelling:
                _check_readable(batch.column(column), partial(report, one_line(column)))
        return checked.get("id")

    def check_job(self) -> None:
        """Check the job's values that stand in for columns, as if they stood in the columns.

        Values that the model cannot make of a row are told by `check`, where rows take them.

        :raises JobError: some break the contract.
        """
        wrong: list[str] = []

        def report(name: str, rows: Rows, describe: Callable[[int], str]) -> None:
            wrong.extend(f"sampling.{name}: {describe(row)}" for row in rows.tolist())

        for name in DEFAULTED:
            # Rows without a negative prompt take the job's, also where there is the column.
            if name not in self.columns.used or name == "negative_prompt":
                value = pa.array([getattr(self.sampling, name)], COLUMNS[name].type)
                self._check_column(value, name, partial(report, name))
        if wrong:
            raise JobError("\n".join(wrong))

    def _check_column(self, found: pa.Array, name: str, report: ColumnReport) -> pa.Array:
        """Report the problems of a column; return its values, of texts those that can be read."""
        _check_exact(found, name, report)
        if COLUMNS[name].type != pa.string():
            self._check_numbers(found, name, report)
            return found
        texts = _texts(found, name, report)
        if name == "id":
            _check_ids(texts, report)
        else:
            self._check_prompts(texts, name, report)
        return texts

    def _check_prompts(self, texts: pa.Array, name: str, report: ColumnReport) -> None:
        """Count the tokens of texts that may have too many."""
        if name == "prompt":
            _check_not_blank(texts, report)
        doubtful = self._doubtful(texts).tolist()
        counts = {row: self.count_tokens(texts[row].as_py()) for row in doubtful}
        over = [row for row, tokens in counts.items() if tokens > self.max_tokens]
        self.over_long += len(over)
        if self.refuse_long:
            report(np.array(over, np.int64), lambda row: self._too_long(counts[row]))

    def _doubtful(self, texts: pa.Array) -> Rows:
        """The texts with many bytes, of which a token takes at least one, and many tokens."""
        most = self.max_tokens - _ADDED_TOKENS - self.limits.template_bytes
        many = _where(pc.greater(_most_bytes(texts), most))
        if self._words is None or not len(many):
            return many
        found: Rows = many[self._words.most_tokens(texts.take(pa.array(many))) > most]
        return found

    def _too_long(self, tokens: int) -> str:
        remedies = ["shorten it"]
        if tokens <= _MAX_SEQUENCE_LENGTH:
            remedies.append(f"or --set model.max_sequence_length={tokens}")
        remedies.append("or --set model.long_prompts=truncate")
        return f"{tokens} tokens, the limit is {self.max_tokens}: {', '.join(remedies)}"

    def _check_numbers(self, found: pa.Array, name: str, report: ColumnReport) -> None:
        takes_the_jobs = name in ("width", "height", "steps")
        default = getattr(self.sampling, name) if takes_the_jobs else COLUMNS[name].low
        values = normalise(found, name).fill_null(default).to_numpy(zero_copy_only=False)
        wrong, accepted = self._wrong_numbers(values, name)

        def describe(row: int) -> str:
            value = found[row].as_py()
            told = f"null, and sampling.{name} = {default}" if value is None else value
            return f"{told}; expected {accepted}"

        report(np.flatnonzero(wrong), describe)
        guidance = self.limits.guidance
        if name == "true_cfg" and guidance and guidance.contrasts:
            meaningless = np.flatnonzero(~wrong & (values > 1))
            report(meaningless, lambda row: f"{found[row].as_py()}; {_NO_TRUE_CFG}")

    def _wrong_numbers(self, values: Rows, name: str) -> tuple[npt.NDArray[np.bool_], str]:
        """Tell which of R values of a column are wrong, and what is accepted."""
        column, sigmas = COLUMNS[name], self.sampling.sigmas
        if name in ("width", "height"):
            return self.limits.wrong_sides(values), self.limits.accepted_sides
        if name == "steps" and sigmas:
            accepted = f"{len(sigmas)}, a step for each of sampling.sigmas"
            model = "--set sampling.sigmas=[] takes the model's levels"
            return values != len(sigmas), f"{accepted}; {model}"
        # NaN is in no range.
        return ~((values >= column.low) & (values <= column.high)), column.accepted


def _check_exact(found: pa.Array, name: str, report: ColumnReport) -> None:
    wrong = inexact(found, name)

    def describe(row: int) -> str:
        value = found[row].as_py()
        why = ""
        if value == value // 1:  # infinities are not
            why = f"; a column of type {found.type} rounds such integers: write it as integers"
        return f"{value}; expected {COLUMNS[name].accepted}{why}"

    report(_where(wrong), describe)


def _check_readable(column: pa.Array, report: ColumnReport) -> None:
    fault = "is not valid UTF-8, or damaged; write the column again"
    report(undecodable(column), lambda _: fault)


def _texts(found: pa.Array, name: str, report: ColumnReport) -> pa.Array:
    """Report texts that text encoders cannot read, and replace those that are not UTF-8."""
    texts = normalise(found, name)
    broken = undecodable(texts)
    report(broken, lambda _: f"is not valid UTF-8; expected {COLUMNS[name].accepted}")
    texts = replace(texts, broken, stand_in(name))
    nul = " holds a NUL character, which text encoders cannot read"
    _refuse(texts, pc.match_substring(texts, "\0"), nul, report)
    return texts


def _check_ids(ids: pa.Array, report: ColumnReport) -> None:
    expected = f"; expected {COLUMNS['id'].accepted}"
    _refuse(ids, pc.greater(pc.utf8_length(ids), MAX_ID_CHARACTERS), expected, report)
    control = pc.match_substring_regex(ids, r"[\x01-\x1f\x7f-\x{9f}]")
    _refuse(ids, control, f" holds a control character{expected}", report)


def _refuse(texts: pa.Array, wrong: pa.Array, fault: str, report: ColumnReport) -> None:
    report(_where(wrong), lambda row: f"{shorten(texts[row].as_py())}{fault}")


def _check_not_blank(prompts: pa.Array, report: ColumnReport) -> None:
    empty = pc.equal(pc.binary_length(prompts), 0)
    blank = pc.or_(empty, pc.utf8_is_space(prompts)).fill_null(True)

    def describe(row: int) -> str:
        text = prompts[row].as_py()
        found = "is null" if text is None else "holds only whitespace" if text else "is empty"
        return f"{found}; expected {COLUMNS['prompt'].accepted}"

    report(_where(blank), describe)


def _most_bytes(texts: pa.Array) -> pa.Array:
    """Return the most UTF-8 bytes of each text that a tokenizer may see.

    T5's tokenizer normalises texts to NFKC, which makes 33 bytes of U+FDFA's 3. ASCII stays.
    """
    lengths = pc.binary_length(texts)
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return lengths
    return pc.max_element_wise(lengths, pc.binary_length(pc.utf8_normalize(texts, "NFKC")))


def _where(mask: pa.Array) -> Rows:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))
