"""The record of one picture: identity, outcome and times.

Records are JSON lines while a shard runs. When it is published they become the rows of
`metadata/NNNNNN.parquet` (`metadata.py`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from batchgen.errors import DamagedRun
from batchgen.manifest import Picture

Outcome = Literal["ok", "failed"]
# "normal": together with its group. "retry": alone, after its group failed. "oom_split": in a
# part of its group, which did not fit the device. "solo": alone, after two deaths.
Route = Literal["normal", "retry", "oom_split", "solo"]
# "": not audited. "measured": compared with what it is without the cache. "below": likewise, and
# below the `audit.min_psnr` that held then. "not measured": it was to be compared, and could not.
AuditOutcome = Literal["", "measured", "below", "not measured"]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one planned picture. `columns.py` says what each field means.

    Times are seconds. Those of a stage are the whole group's: divide by `group_size` for the
    picture's share.
    """

    key: int
    row: int
    image: int
    id: str
    generation: int
    shard: int
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    true_cfg: float
    outcome: Outcome
    cause: str
    error: str
    path: Route
    group_size: int
    image_bytes: int
    text_s: float
    denoise_s: float
    decode_s: float
    queue_s: float
    image_encode_s: float
    total_s: float
    peak_bytes: int
    graphs: int
    graph_breaks: int
    recompilations: int
    code: str
    skipped: str
    distances: list[float | None]
    host: str
    worker: int
    attempt: int
    # Seconds since the epoch.
    finished_at: float
    identity: str
    # Records of batchgen 0.2 and older have none of the following.
    audit: AuditOutcome = ""
    audit_error: str = ""
    psnr: float | None = None
    ssim: float | None = None
    audit_s: float = 0.0
    products: list[float] | None = None
    sha256: str | None = None
    phash: str | None = None
    # Records of runs that were begun before `[score]` have none of the following.
    score: float | None = None
    label: str | None = None
    labels: list[str] | None = None
    label_scores: list[float] | None = None
    score_s: float = 0.0

    @property
    def group_s(self) -> float:
        """Seconds that the device worked on the picture's group: text, denoising and decoding."""
        return self.text_s + self.denoise_s + self.decode_s

    def line(self) -> bytes:
        """The record as one JSON line."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"


def identity_of(picture: Picture) -> dict[str, Any]:
    """The fields that a record shares with its picture."""
    fields = dataclasses.asdict(picture)
    del fields["extra"]
    return fields


def parse(lines: bytes, where: str) -> list[Record]:
    """The records of JSON lines that this version wrote.

    :param where: the file, for the message.
    :raises DamagedRun: a line is not a record.
    """
    try:
        return [Record(**json.loads(line)) for line in lines.splitlines()]
    except (ValueError, TypeError) as error:
        raise DamagedRun(f"{where}: not batchgen's records: {error}") from None
