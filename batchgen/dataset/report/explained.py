"""How every number of a report is computed: in words, and as SQL over the published records.

The queries are for readers, who need nothing but DuckDB and `metadata/*.parquet`; the report itself
computes its numbers in Python (numbers.py, statistics.py). The tests compare the two. `made` has
all records, and `records` the last one of each picture, where some were made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.planning import Generation

_METADATA = "read_parquet('metadata/*.parquet', union_by_name = true)"
# The columns of then under today's names.
_OLDER = """(
  SELECT * REPLACE (to_timestamp(finished_at) AS finished_at), text_s AS group_text_s,
    denoise_s AS group_denoise_s, decode_s AS group_decode_s,
    (text_s + denoise_s + decode_s) / group_size AS device_s
  FROM read_parquet('metadata/*.parquet', union_by_name = true))"""
_VIEW = """\
CREATE VIEW made AS SELECT *,
  -- `skipped` has a letter a step: 1 for skipped, 0 for computed; without a cache it is empty
  steps - length(skipped) + length(replace(skipped, '1', '')) AS computed,
  floor(finished_at / getvariable('moment_s')) AS moment
FROM (SELECT * REPLACE (
    -- the share of the time that all devices of a worker worked on the picture's group
    device_s * getvariable('ranks') AS device_s,
    epoch(finished_at) AS finished_at) FROM {metadata});
CREATE VIEW records AS FROM made{latest};
CREATE VIEW good AS FROM records WHERE outcome = 'ok';"""


# Of a picture that was made again, the last record counts; none while it is being made.
_LATEST = """
{pending}QUALIFY row_number() OVER (PARTITION BY row, image ORDER BY generation DESC) = 1"""
_PENDING = """WHERE generation = {last}
  OR (row, image) NOT IN (SELECT (row, image) FROM '.batchgen/{file}')
"""


def prepare(
    *,
    planned: int,
    ranks: int,
    moment_s: float,
    cell: int,
    older: bool,
    later: Sequence[Generation] = (),
    pending: bool = False,
) -> str:
    """What is typed in the run directory before the queries.

    :param planned: pictures of the plan.
    :param ranks: devices of a worker.
    :param moment_s: seconds of a moment of the plots over time.
    :param cell: steps of a cell of the heat map.
    :param older: batchgen 0.2 or older has planned the run.
    :param later: the run's later generations.
    :param pending: whether pictures of the last one are missing.
    """
    values = {"planned": planned, "ranks": ranks, "moment_s": f"{moment_s:g}", "cell": cell}
    variables = [f"SET VARIABLE {name} = {value};" for name, value in values.items()]
    metadata = _OLDER if older else _METADATA
    latest = ""
    if any(one.makes_again for one in later):
        listed = later[-1].listed if pending and later[-1].makes_again else None
        values = {"last": later[-1].generation, "file": listed.file if listed else ""}
        latest = _LATEST.format(pending=_PENDING.format(**values) if listed else "")
    return "\n".join([*variables, _VIEW.format(metadata=metadata, latest=latest)])


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the report, or several that stand together."""

    # Where the page has it: `data-figure`.
    name: str
    title: str
    words: str
    # Its rows and columns are the page's numbers, in their order.
    sql: str


FIGURES = (
    Figure("ok", "pictures", "Good pictures in published shards.", "SELECT count(*) FROM good"),
    Figure(
        "failed",
        "failed",
        "Pictures that could not be made; each has a record with its cause and its error.",
        "SELECT count(*) FROM records WHERE outcome = 'failed'",
    ),
    Figure(
        "pending",
        "pending",
        "Planned pictures without a published record.",
        "SELECT getvariable('planned') - count(*) FROM records",
    ),
    Figure(
        "device_hours",
        "device time",
        "Each picture has its share of the time that devices worked on its group: text, denoising "
        "and decoding. Starts, waits, audits, and work that was lost or is not published yet are "
        "not in it; `batchgen status` has them. The cost is this times the price that was given.",
        "SELECT sum(device_s) / 3600 FROM made",
    ),
    Figure(
        "rate",
        "pictures per device-hour",
        "Good pictures by the device-hours of good and failed ones.",
        "SELECT count(*) FILTER (outcome = 'ok') / sum(device_s) * 3600 FROM made",
    ),
    Figure(
        "picture_s",
        "of a device for a picture",
        "The same the other way round.",
        "SELECT sum(device_s) / count(*) FILTER (outcome = 'ok') FROM made",
    ),
    Figure(
        "computed",
        "of the steps computed",
        "Steps of good pictures that were computed, by all their steps; the others were skipped.",
        "SELECT sum(computed) / sum(steps) FROM good",
    ),
    Figure(
        "span",
        "clock time",
        "From the begin of the first group to the end of the last one, with all pauses.",
        "SELECT max(finished_at) - min(finished_at - total_s) FROM made",
    ),
    Figure(
        "bytes",
        "dataset",
        "The sizes of the tar files.",
        "SELECT sum(size) FROM read_blob('data/*.tar')",
    ),
    Figure(
        "audit",
        "fidelity",
        "Audited pictures were also made without the step cache, and compared before they were "
        "encoded: PSNR in dB on average, how many, PSNR at worst; SSIM on average and at worst.",
        "SELECT avg(psnr), count(psnr), min(psnr), avg(ssim), min(ssim) FROM made",
    ),
    Figure(
        "score",
        "score",
        "What `score.model` says of good pictures: how many have a score, its mean, the lowest and "
        "the highest.",
        "SELECT count(score), avg(score), min(score), max(score) FROM good",
    ),
    Figure(
        "labels",
        "labels",
        "The label that the classifier holds for the most probable one, and how many good pictures "
        "have it; the twelve most frequent ones.",
        "SELECT label, count(*) FROM good WHERE label IS NOT NULL\n"
        "GROUP BY label ORDER BY count(*) DESC, label LIMIT 12",
    ),
    Figure(
        "failures",
        "failures by cause",
        "A cause is a class of failures; the record's error is the message.",
        "SELECT cause, count(*) FROM records WHERE outcome = 'failed'\n"
        "GROUP BY cause ORDER BY count(*) DESC, cause",
    ),
    Figure(
        "course",
        "over time",
        "Good pictures by the moment in which they were finished: pictures an hour; median, 95% "
        "and 99% quantile of the latency.",
        "SELECT count(*) * 3600 / getvariable('moment_s'), quantile_cont(total_s, 0.5),\n"
        "  quantile_cont(total_s, 0.95), quantile_cont(total_s, 0.99)\n"
        "FROM good GROUP BY moment ORDER BY moment",
    ),
    Figure(
        "stages",
        "latency by stage",
        "Of good pictures. Encoding prompts, denoising and decoding are the whole group's, because "
        "a picture waits for its group; encoding the image is the picture's own; the last is from "
        "the begin of the group until the picture was handed to the disk. Quantiles are "
        "interpolated; of more than 100,000 pictures they are off by half a percent at most.",
        "SELECT avg(seconds), quantile_cont(seconds, 0.5), quantile_cont(seconds, 0.95),\n"
        "  quantile_cont(seconds, 0.99)\n"
        "FROM (UNPIVOT good\n"
        "  ON group_text_s, group_denoise_s, group_decode_s, image_encode_s, total_s\n"
        "  INTO NAME stage VALUE seconds)\n"
        "GROUP BY stage ORDER BY list_position(\n"
        "  ['group_text_s', 'group_denoise_s', 'group_decode_s', 'image_encode_s', 'total_s'],\n"
        "  stage)",
    ),
    Figure(
        "workers",
        "by worker",
        "Good and failed pictures, device-hours, and good pictures per device-hour; the fastest "
        "worker first.",
        "SELECT host, worker, count(*) FILTER (outcome = 'ok') AS ok,\n"
        "  count(*) FILTER (outcome = 'failed'), sum(device_s) / 3600,\n"
        "  ok / sum(device_s) * 3600 AS rate\n"
        "FROM made GROUP BY host, worker ORDER BY rate DESC, host, worker",
    ),
    Figure(
        "classes",
        "steps by size",
        "Good pictures of one size and number of steps: how many there are, their steps, and how "
        "many steps of a picture were computed on average.",
        "SELECT width, height, count(*), steps, avg(computed) FROM good\n"
        "GROUP BY width, height, steps ORDER BY count(*) DESC, width, height, steps",
    ),
    Figure(
        "heat",
        "steps one by one",
        "The share of these pictures that computed a step. With more than a hundred steps, a cell "
        "is the mean over several.",
        "SELECT avg((substr(skipped, step, 1) <> '1')::INT) FROM (\n"
        "  SELECT width, height, steps, skipped, unnest(range(1, steps + 1)) AS step,\n"
        "    count(*) OVER (PARTITION BY width, height, steps) AS alike FROM good)\n"
        "GROUP BY alike, width, height, steps, (step - 1) // getvariable('cell')\n"
        "ORDER BY alike DESC, width, height, steps, (step - 1) // getvariable('cell')",
    ),
)
