"""A published run with known records, made without workers: every kind of number has a value."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen.planning.plan import PLAN_VERSION
from batchgen.run.run import Run
from batchgen.settings import Output
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.publish import publish_shard
from batchgen.shard.records import Record
from batchgen.worker.samples import encode_image, sample
from tests.support.specimens import picture, planned, record

HOSTILE = (
    "<script>console.error('a prompt ran')</script>",
    "\"quoted\" 'quoted' & onerror=alert(1) `x`",
    "שלום עולם \u202e abc مرحبا",
    "ten thousand letters " + "x" * 9979,
    "👩‍👩‍👧‍👦 🎨 emoji",
    "</style></details><h1>another heading</h1>",
    "{{7*7}} {% raw %} {{ config }}",
    "<img src=x onerror=alert(1)>",
    "</script><svg onload=alert(1)>",
    "a line\nand another\tone \x01 \x1b[2J",
)
SHARD = 8


def published_run(
    folder: Path,
    pictures: int = 24,
    *settings: str,
    left: int = 0,
    version: int = PLAN_VERSION,
    scores: str = "",
) -> Run:
    """A run of pictures in two sizes and with two numbers of steps; every fifth has failed.

    :param left: how many shards at the end are not made.
    :param version: of the plan.
    :param scores: "number" or "label": of most good pictures.
    """
    prompts = [HOSTILE[number % len(HOSTILE)] for number in range(pictures)]
    run = planned(folder, prompts, f"shards.pictures={SHARD}", *settings)
    run = dataclasses.replace(run, plan=run.plan.model_copy(update={"version": version}))
    for number, shard in enumerate(run.plan.shards[: len(run.plan.shards) - left]):
        keys = range(shard.first_key, shard.first_key + shard.pictures)
        partial = PartialShard(run.directory, number, 1, [])
        partial.begin(0, len(keys))
        records = [_record(key, prompts[key], number, scores) for key in keys]
        partial.end(b"".join(map(_sample, records)), records)
        publish_shard(run.directory, partial, shard, pa.table({}), run.plan)
        partial.close()
    return run


def _record(key: int, prompt: str, shard: int, scores: str) -> Record:
    chance = random.Random(key)
    side, steps = (16, 4) if key % 3 else (32, 6)
    failed, audited = key % 5 == 4, key % 4 == 0
    given = {
        name: chance.lognormvariate(0, 1)
        for name in ("text_s", "denoise_s", "decode_s", "queue_s", "image_encode_s", "total_s")
    }
    if failed:
        given |= {"outcome": "failed", "cause": chance.choice(["exception", "not finite"])}
        given |= {"error": f"<b>no</b> {key}"}
    elif audited:
        given |= {"audit": "measured", "psnr": chance.uniform(20, 60), "ssim": chance.random()}
    if scores and not failed and key % 7:
        label = chance.choice(["normal", "nsfw", "<b>drawing</b>"]) if scores == "label" else None
        given |= {"score": chance.gauss(0, 20), "label": label, "labels": label and [label]}
    return record(
        of=picture(key, prompt=prompt, width=side, height=side, steps=steps, id=f"id-{key}"),
        shard=shard,
        group_size=chance.randint(1, 4),
        skipped="".join(chance.choice("01") for _ in range(steps)),
        host=f"node-{key % 2}",
        worker=key % 3,
        finished_at=1.8e9 + 7.25 * key,
        **given,
    )


def _sample(one: Record) -> bytes:
    if one.outcome == "failed":
        return b""
    rng = np.random.default_rng(one.key)
    pixels = rng.integers(0, 256, (one.height, one.width, 3), np.uint8)
    image = encode_image(pixels, Output())
    return sample(picture(one.key, prompt=one.prompt), image, Output())
