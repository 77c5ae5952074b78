"""What pictures, records and the card say of where pictures come from."""

import dataclasses
import hashlib
import re
import tarfile
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchgen.dataset.card import dataset_card
from batchgen.dataset.provenance import known_as, source_type, without_paths
from batchgen.dataset.statistics import Statistics
from batchgen.model import Ingredient
from batchgen.run import Run
from batchgen.settings import Lora, load_job, to_toml
from tests.support.rehearsal import Answer, records
from tests.support.specimens import planned

Finished = tuple[Path, Answer]


def test_records_have_the_hashes_of_their_pictures_and_none_of_failed_ones(
    finished: Finished,
) -> None:
    run, rows = finished[0], records(finished[0])
    for row in rows:
        if row["outcome"] == "failed":
            assert (row["sha256"], row["phash"]) == (None, None)
            continue
        with tarfile.open(run / row["tar"]) as tar:
            image = tar.extractfile(f"{row['key']}.jpg").read()
        assert row["sha256"] == hashlib.sha256(image).hexdigest()
        assert row["image_bytes"] == len(image)
        assert len(row["phash"]) == 16
    assert len({row["phash"] for row in rows if row["phash"]}) > 20


LIMITED = Ingredient(
    kind="model", name="org/dev@abc", family="flux", digest="sha256:12", license="x-non-commercial"
)
STYLE = Ingredient(kind="LoRA", name="a|`b`\n", digest="sampled:34", strength=0.8)


def made_by_a_model(tmp_path: Path, *settings: str, made_with: Any = (LIMITED, STYLE)) -> Run:
    """A run whose plan says what a model's would; no picture is asked for."""
    run = planned(tmp_path, ["a cat"])
    job = load_job(None, ["output.license=other", *settings])
    lora = (Lora(path="/home/me/secret.safetensors", scale=0.8),)
    job = job.model_copy(update={"model": job.model.model_copy(update={"lora": lora})})
    plan = run.plan.model_copy(update={"made_with": made_with})
    return dataclasses.replace(run, job=job, plan=plan)


def card(run: Run) -> str:
    return dataset_card(run, Statistics(1, 1, 0, {}, {}, {}, 0, 0.0, {}))


def test_the_card_names_model_and_loras_with_digests_and_both_licences(tmp_path: Path) -> None:
    text = card(made_by_a_model(tmp_path))
    assert "1 picture painted by `org/dev@abc` from 1 prompt" in text
    assert "| model | `org/dev@abc`, flux; licence x-non-commercial; `sha256:12` |" in text
    lora = r"| LoRA | `a/'b'\n`, strength 0.8; its files tell no licence; `sampled:34` |"
    assert lora in text
    assert "| licence of the pictures | other |" in text
    assert "secret" not in text
    assert "force_license" not in text


def test_the_card_says_that_a_licence_was_forced(tmp_path: Path) -> None:
    forced = ["output.license=cc-by-4.0", "output.force_license=true"]
    text = card(made_by_a_model(tmp_path, *forced))
    assert "A licence above is non-commercial." in text
    assert "it allows cc-by-4.0 for the pictures (`output.force_license`)" in text


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ((), ["| step cache | policy none |", "| precision | linear auto, text none |"]),
        (
            ("cache.policy=multistep", "cache.tolerance=0.02", "precision.linear=int8"),
            [
                "| step cache | policy multistep, tolerance 0.02 |",
                "| precision | linear int8, granularity row, text none |",
            ],
        ),
        (
            ("cache.policy=first_block", "cache.threshold=0.0"),
            ["| step cache | policy first_block, threshold 0.0, blocks 1, warmup 0, taylor"],
        ),
    ],
)
def test_the_card_says_the_settings_that_were_read(
    settings: tuple[str, ...], rows: list[str], tmp_path: Path
) -> None:
    run = made_by_a_model(tmp_path, *settings)
    assert all(row in card(run) for row in rows)
    assert "computed on" not in card(run)
    run.directory.identity.write_text("cuda H100 bf16")
    assert "| computed on | `cuda H100 bf16` |" in card(run)


def test_the_card_counts_steps(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a", "b", "c"], steps=[4, 28, 4])
    assert "| steps | 4 (2 pictures), 28 (1 picture) |" in card(run)
    assert "| step cache |" not in card(run), "test cards have none"


def test_test_cards_are_not_said_to_come_from_a_trained_model() -> None:
    assert source_type(load_job(None)).endswith("/trainedAlgorithmicMedia")
    assert source_type(load_job(None, ["engine.kind=pattern"])).endswith("/algorithmicMedia")


def test_the_query_for_near_duplicates_finds_them(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "provenance.md").read_text()
    (query,) = re.findall(r"(?ms)^```sql\n(.*?)^```", text)
    monkeypatch.chdir(finished[0])
    hashes = {row["key"]: row["phash"] for row in records(finished[0]) if row["phash"]}
    apart = {
        (one, other): (int(hashes[one], 16) ^ int(hashes[other], 16)).bit_count()
        for one, other in combinations(sorted(hashes), 2)
    }
    near = {pair: bits for pair, bits in apart.items() if bits <= 4}
    found = duckdb.sql(query.replace("<= 4", "<= 30")).fetchall()
    assert {(one, other): bits for one, other, bits in found} == {
        pair: bits for pair, bits in apart.items() if bits <= 30
    }
    assert len(duckdb.sql(query).fetchall()) == len(near)


def test_strangers_are_told_no_path_of_this_machine() -> None:
    files = ["cache.trace", "score.model", "run.compile_cache", "model.path"]
    settings = [f"{name}=/home/me/{name}" for name in files]
    job = load_job(None, [*settings, "cache.policy=replay", "sampling.negative_prompt=/imagine/a"])
    lora = (Lora(path="/home/me/style.safetensors", scale=0.8),)
    job = job.model_copy(update={"model": job.model.model_copy(update={"lora": lora})})
    told = without_paths(job)
    assert "/home" not in to_toml(told)
    assert (told.model.path, told.score.model) == ("model.path", "score.model")
    assert (told.model.lora[0].path, told.model.lora[0].scale) == ("style.safetensors", 0.8)
    assert told.sampling == job.sampling
    cached = "/x/hub/models--org--dev/snapshots/abc/vae"
    assert [known_as(one) for one in (cached, "org/dev", "tiny", "")] == [
        "org/dev@abc/vae",
        "org/dev",
        "tiny",
        "",
    ]
