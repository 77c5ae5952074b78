"""The alternative: the script a user would write. Stock diffusers, one prompt at a time, a
webdataset ShardWriter.

    python benchmarks/stock_script.py manifests/prompts.parquet OUT --model batchgen/model/tiny
    --limit 64

As a job array runs it, one process a core, each paints its share of the rows: `--share 0/2`.

Prints pictures per second, the first picture (kernels, caches) left out. Nothing here resumes,
batches or records; it is what batchgen is compared with, and is kept faithful: the same pictures
from the same seeds, JPEG 95 at 4:4:4, text padded alike.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
import webdataset
from diffusers import FluxPipeline


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cuda = torch.cuda.is_available()
    pipeline = FluxPipeline.from_pretrained(
        arguments.model, dtype=torch.bfloat16 if cuda else torch.float32
    )
    pipeline.to("cuda" if cuda else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    share, shares = map(int, arguments.share.split("/"))
    rows = pq.read_table(arguments.manifest).slice(0, arguments.limit).to_pylist()
    numbered = list(enumerate(rows))[share::shares]
    arguments.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with webdataset.ShardWriter(
        str(arguments.out / "%06d.tar"), maxcount=1000, verbose=0
    ) as writer:
        for number, row in numbered:
            image = pipeline(
                row["prompt"],
                width=row.get("width") or arguments.size,
                height=row.get("height") or arguments.size,
                num_inference_steps=row.get("steps") or arguments.steps,
                guidance_scale=arguments.guidance
                if row.get("guidance") is None
                else row["guidance"],
                negative_prompt=row.get("negative_prompt") or None,
                true_cfg_scale=row.get("true_cfg") or 1.0,
                generator=torch.Generator().manual_seed(
                    number if row.get("seed") is None else row["seed"]
                ),
                max_sequence_length=arguments.text_tokens,
            ).images[0]
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=95, subsampling=0)
            writer.write(
                {
                    "__key__": f"{number:09d}",
                    "jpg": jpeg.getvalue(),
                    "txt": row["prompt"],
                    "json": json.dumps(row, default=str).encode(),
                }
            )
            if number == share:
                begin = time.perf_counter()
    seconds = time.perf_counter() - begin
    print(
        f"{(len(numbered) - 1) / seconds:.3f} pictures/s warm "
        f"({len(numbered) - 1} in {seconds:.2f} s, {arguments.threads} threads)"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest",
        type=Path,
        help="Parquet file with a prompt column; width, height, steps, guidance, seed are read too",
    )
    parser.add_argument("out", type=Path, help="folder for the tar files")
    parser.add_argument("--model", default="batchgen/model/tiny", help="folder or hub id")
    parser.add_argument("--limit", type=int, default=64, help="rows to paint, at least 2 a share")
    parser.add_argument("--share", default="0/1", help="I/N: of the rows, I, I+N, I+2N and so on")
    parser.add_argument("--size", type=int, default=128, help="px, where the row does not say")
    parser.add_argument("--steps", type=int, default=28, help="where the row does not say")
    parser.add_argument("--guidance", type=float, default=3.5, help="where the row does not say")
    parser.add_argument("--text-tokens", type=int, default=32, help="max_sequence_length")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
