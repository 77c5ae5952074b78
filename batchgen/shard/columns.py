"""The columns of published records: the name, type, meaning and value of each.

The manifest's other columns stand beside them, typed, in the struct `extra`. Every statistic that
batchgen shows can be recomputed from these columns (P8). The card shows what they mean, and so does
`batchgen records --columns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchgen.settings import prompt_place
from batchgen.shard.records import Record

# A column's meaning, in the Parquet file's schema, where pyarrow and DuckDB show it.
MEANING = b"description"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of published records."""

    name: str
    type: pa.DataType
    # A sentence or two for people who join the table.
    meaning: str
    # From a record to its value; None: the record's field of that name.
    value: Callable[[Record], Any] | None = None

    @property
    def field(self) -> pa.Field:
        """The column in an Arrow schema."""
        return pa.field(self.name, self.type, metadata={MEANING: self.meaning})


def key_text(key: int) -> str:
    """A picture's key as it stands in tars, records and messages."""
    return f"{key:09d}"


def _tar(record: Record) -> str | None:
    return f"data/{record.shard:06d}.tar" if record.outcome == "ok" else None


def _share_s(record: Record) -> float:
    return record.group_s / record.group_size


_WHOLE, _NUMBER, _TEXT = pa.int64(), pa.float64(), pa.string()
_NUMBERS = pa.list_(_NUMBER)
_MOMENT = pa.timestamp("us", "UTC")
# The one column whose value is the run's, not the record's.
MADE_WITH = "made_with"
INGREDIENT = {"kind": _TEXT, "name": _TEXT, "digest": _TEXT, "strength": _NUMBER, "license": _TEXT}

COLUMNS = (
    Column(
        "key",
        _TEXT,
        "The picture's key: nine digits, the name of its files in the tar, and `key` in its JSON.",
        lambda one: key_text(one.key),
    ),
    Column(
        "index",
        _WHOLE,
        "The key as a number: the run's pictures counted from 0.",
        lambda one: one.key,
    ),
    Column(
        "tar",
        _TEXT,
        "The tar with the picture, as a path in the run's folder; null if it failed.",
        _tar,
    ),
    Column("row", _WHOLE, "Its row of the manifest, counted from 0 over all files."),
    Column("image", _WHOLE, "Which picture of its row it is, counted from 0."),
    Column("id", _TEXT, "The row's id; empty where the manifest has none."),
    Column("generation", _WHOLE, "Which plan of the run made it; 0 is the first."),
    Column("shard", _WHOLE, "The shard, whose number is in the names of its tar and metadata."),
    Column("prompt", _TEXT, "The prompt."),
    Column(
        "prompt_place",
        _NUMBER,
        "Where the prompt stands among all, from 0 to 1: a hash of its text. `[splits]` divides by "
        "it: pictures below `validation` are for validation, those from 1 - `test` on for tests.",
        lambda one: prompt_place(one.prompt),
    ),
    Column("negative_prompt", _TEXT, "The negative prompt; empty without one."),
    Column("seed", _WHOLE, "Seed of the noise that the picture begins with."),
    Column("width", _WHOLE, "Pixels."),
    Column("height", _WHOLE, "Pixels."),
    Column("steps", _WHOLE, "Denoising steps, computed and skipped."),
    Column("guidance", _NUMBER, "The row's guidance; what it means depends on the model."),
    Column("true_cfg", _NUMBER, "Scale of classifier-free guidance with a negative prompt."),
    Column("outcome", _TEXT, "`ok`, or `failed`."),
    Column(
        "cause",
        _TEXT,
        "The class of a failure: `not finite`, `one colour`, `exception`, `out of memory` or "
        "`killed its worker`; empty if it did not fail.",
    ),
    Column("error", _TEXT, "The message of a failure; empty if it did not fail."),
    Column(
        "path",
        _TEXT,
        "`normal`: with its group. `retry`: alone, after its group failed. `oom_split`: in a part "
        "of its group, which did not fit the device. `solo`: alone, after two deaths.",
    ),
    Column("group_size", _WHOLE, "Pictures that were denoised together with it, itself included."),
    Column("image_bytes", _WHOLE, "Bytes of the image file; 0 if it failed."),
    Column("sha256", _TEXT, "SHA-256 of the image file, hexadecimal; null if it failed."),
    Column(
        "phash",
        _TEXT,
        "Perceptual hash of the pixels before they were encoded: 64 bits, hexadecimal. Pictures "
        "that look alike differ in few bits. Computed as the `phash` of imagehash; null if it "
        "failed.",
    ),
    Column(
        "device_s",
        _NUMBER,
        "Seconds: its share of the time that a device worked on its group, for text, denoising and "
        "decoding. The sum over pictures is the time of devices; a worker of several has it on "
        "each.",
        _share_s,
    ),
    Column(
        "group_text_s", _NUMBER, "Seconds of its group's text encoding.", lambda one: one.text_s
    ),
    Column(
        "group_denoise_s", _NUMBER, "Seconds of its group's denoising.", lambda one: one.denoise_s
    ),
    Column("group_decode_s", _NUMBER, "Seconds of its group's decoding.", lambda one: one.decode_s),
    Column("queue_s", _NUMBER, "Seconds between its group's denoising and decoding."),
    Column("image_encode_s", _NUMBER, "Seconds of a processor, encoding this picture's file."),
    Column(
        "total_s",
        _NUMBER,
        "Latency in seconds: from the begin of its group until it was handed to the disk.",
    ),
    Column(
        "peak_bytes",
        _WHOLE,
        "The most bytes that the worker has had in use on its device, from its start until this "
        "group was denoised; 0 without a card.",
    ),
    Column("graphs", _WHOLE, "Compiled graphs of the worker; 0 if nothing was compiled."),
    Column("graph_breaks", _WHOLE, "Breaks in these graphs."),
    Column("recompilations", _WHOLE, "Recompilations after the warm-up, which were refused."),
    Column("code", _TEXT, "SHA-256 of the compiled code's archive; empty if nothing was compiled."),
    Column(
        "skipped",
        _TEXT,
        "A letter a step: 1 for skipped by the cache, 0 for computed. Empty without a cache.",
    ),
    Column(
        "distances",
        _NUMBERS,
        "What the cache measured at each step, null where it did not. first_block, teacache and a "
        "replay with blocks: how far their signal had moved. Else at computed steps after the "
        "first: the root mean square error of the velocity that was predicted for it; with "
        "adacache, the velocity's relative change since the last computed step.",
    ),
    Column("host", _TEXT, "The machine that made it."),
    Column("worker", _WHOLE, "The worker on that machine."),
    Column("attempt", _WHOLE, "Which attempt at its shard made it."),
    Column(
        "finished_at",
        _MOMENT,
        "When it was handed to the disk, UTC.",
        lambda one: round(one.finished_at * 1_000_000),
    ),
    Column("identity", _TEXT, "The engine's device and numerics."),
    Column(
        MADE_WITH,
        pa.list_(pa.struct(list(INGREDIENT.items()))),
        "The model, and its LoRAs behind it: `kind`, `name`, `digest` of weights, `strength` of "
        "a LoRA, and the `license` that their files tell, empty if they tell none. Empty of test "
        "cards. In DuckDB: `made_with[1].name`.",
    ),
    Column(
        "audit",
        _TEXT,
        "Empty: not audited. `measured`: compared with what it is without the cache. `below`: "
        "likewise, and below the `audit.min_psnr` of then. `not measured`: it could not be.",
    ),
    Column("audit_error", _TEXT, "Why it could not be measured; empty otherwise."),
    Column(
        "psnr",
        _NUMBER,
        "dB of the pixels before they were encoded, against the same picture without the cache; 99 "
        "for equal ones, null if not measured.",
    ),
    Column("ssim", _NUMBER, "The structural similarity of the same; 1 for equal ones."),
    Column(
        "audit_s",
        _NUMBER,
        "Seconds: its share of the time that the device worked on its group's audit. No other "
        "column has them.",
    ),
    Column(
        "products",
        _NUMBERS,
        "With `cache.record`: the steps + 1 sigmas, and the inner products of the velocities at "
        "steps (0, 0), (1, 0), (1, 1), (2, 0), …; null otherwise.",
    ),
    Column(
        "score",
        _NUMBER,
        "What `score.model` says: the logit of picture and prompt of CLIP (100 times the cosine), "
        "PickScore or SigLIP (its sigmoid is a probability); a classifier's probability of "
        "`label`; or its number. Null without a scorer, for a failure, or if it is not finite.",
    ),
    Column("label", _TEXT, "A classifier's most probable label; null without one."),
    Column(
        "labels",
        pa.list_(_TEXT),
        "A classifier's ten most probable labels, in that order; null without one.",
    ),
    Column(
        "label_scores",
        _NUMBERS,
        "The probabilities of `labels`, in their order. In DuckDB: "
        "`label_scores[list_position(labels, 'nsfw')]`.",
    ),
    Column(
        "score_s",
        _NUMBER,
        "Seconds: its share of the time that scoring its group took. No other column has them.",
    ),
)
EXTRA = (
    "The manifest's other columns, with their types. The picture's JSON has them too; see the card."
)
SCHEMA = pa.schema([column.field for column in COLUMNS])
