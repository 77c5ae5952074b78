"""What a person can get wrong, one row each.

`plan` and `submit` tell where it is wrong and what is accepted, exit with 2, and start nothing.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.planning.planner import locate_model
from batchgen.run.run import create
from batchgen.settings.job import load_job
from tests.support.full_size import write_full_size
from tests.support.nvidia_driver import Driver
from tests.support.rehearsal import ask, settings, write_prompts

# Writes the manifest into a folder, and returns the words of the command.
Write = Callable[[Path], list[object]]


def only(**columns: Any) -> Write:
    """A Parquet file of these columns and no other."""

    def make(folder: Path) -> list[object]:
        pq.write_table(pa.table(columns), folder / "bad.parquet")
        return [folder / "bad.parquet"]

    return make


def table(**columns: Any) -> Write:
    """A Parquet file of these columns; `prompt` filled in."""
    rows = len(next(iter(columns.values())))
    return only(prompt=["a cat"] * rows, **columns)


def file(name: str, content: bytes) -> Write:
    def make(folder: Path) -> list[object]:
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


def truncated(folder: Path) -> list[object]:
    path = write_prompts(folder / "bad.parquet", ["a cat"] * 1000)
    path.write_bytes(path.read_bytes()[:-100])
    return [path]


def corrupt(folder: Path) -> list[object]:
    path = write_prompts(folder / "bad.parquet", [f"a cat {n}" for n in range(1000)])
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(20)
    path.write_bytes(data)
    return [path]


def words(*more: object) -> Write:
    return lambda folder: [write_prompts(folder / "good.parquet", ["a cat"]), *more]


def job(text: str) -> Write:
    def make(folder: Path) -> list[object]:
        (folder / "job.toml").write_text(text)
        return [write_prompts(folder / "good.parquet", ["a cat"]), "--job", folder / "job.toml"]

    return make


def small_sd3(job: str = "width = 128\nheight = 128", cache: str = "", **columns: Any) -> Write:
    """A job of a Stable Diffusion 3 with positions up to 208 px; a manifest of these columns."""

    def make(folder: Path) -> list[object]:
        from tests.support.sd3_folder import save_sd3  # takes seconds that few tests need

        model = save_sd3(folder / "model")
        section = f"[model]\npath = '{model}'\nmax_sequence_length = 32\n"
        text = f"{section}[sampling]\n{job}\n[cache]\n{cache}\n"
        (folder / "job.toml").write_text(text)
        return [*table(**columns)(folder), "--job", folder / "job.toml"]

    return make


def pipe(folder: Path) -> list[object]:
    os.mkfifo(folder / "bad.csv")
    return [folder / "bad.csv"]


def nested(folder: Path) -> list[object]:
    (folder / "data set").mkdir()
    write_prompts(folder / "data set" / "bad.parquet", ["a cat"])
    return [folder]


def two_kinds(folder: Path) -> list[object]:
    (folder / "b.csv").write_text("prompt\na cat\n")
    return [write_prompts(folder / "a.parquet", ["a cat"]), folder / "b.csv"]


ROWS: dict[str, tuple[Write, Sequence[str]]] = {
    # the file
    "missing manifest": (lambda folder: [folder / "none.parquet"], ["none.parquet: no such file"]),
    "glob without match": (lambda folder: [folder / "*.parquet"], ["*.parquet: no file matches"]),
    "folder without files": (
        lambda folder: [folder],
        ["no manifest files directly inside", ".parquet", ".jsonl"],
    ),
    "unknown extension": (file("bad.md", b"a cat"), ["bad.md: unknown extension '.md'", ".csv"]),
    "named pipe": (pipe, ["bad.csv: a named pipe", "write it to a file first"]),
    "nested folders": (nested, ["files in its subfolders", "**/*.parquet' for all of them"]),
    "files of two kinds": (two_kinds, ["a.parquet", "b.csv", "of one kind"]),
    "empty file": (file("bad.parquet", b""), ["bad.parquet", "empty (0 bytes)"]),
    "not Parquet": (
        file("bad.parquet", b"<html>not found</html>" * 9),
        ["bad.parquet: cannot be read as Parquet"],
    ),
    "zero rows": (
        only(prompt=pa.array([], pa.string())),
        ["bad.parquet: no rows", "at least one prompt"],
    ),
    "truncated Parquet": (truncated, ["bad.parquet: cannot be read as Parquet", "Truncated"]),
    "corrupt page": (corrupt, ["bad.parquet: corrupt data at or after row 0"]),
    "broken CSV": (
        file("bad.csv", b"prompt,seed\na cat, on a mat,1\n"),
        ["row 0 of", "bad.csv", "3 fields in line 2, the header has 2"],
    ),
    "broken JSONL": (
        file("bad.jsonl", b'{"prompt": "a cat"}\n{"prompt": \n'),
        ["row 1 of", "bad.jsonl", "not a JSON object"],
    ),
    "quote that is not closed": (
        file("bad.csv", b'prompt\na cat\n"a dog\na fox\n'),
        ["bad.csv, line 3: a quote opens here and is never closed", "double quotes inside"],
    ),
    "UTF-16 without a mark": (
        file("bad.csv", "prompt\na cat\n".encode("utf-16-le")),
        ["bad.csv: looks like UTF-16LE", "iconv -f UTF-16LE -t UTF-8"],
    ),
    "key that stands twice": (
        file("bad.jsonl", b'{"prompt": "a cat", "prompt": "a dog"}\n'),
        ["row 0 of", "bad.jsonl", "the key 'prompt' stands twice"],
    ),
    # columns
    "name that nearly is ours": (
        table(seeds=[1]),
        ["column seeds: did you mean seed? --column seed=seeds, or --column seeds= to let"],
    ),
    "name with control characters": (
        table(**{"seed\x1b[2J": [1], "seed\n": [1]}),
        ["column seed\\n: did you mean seed?"],
    ),
    "column that is not there": (
        words("--column", "prompt=caption"),
        ["--column prompt=caption", "has no column caption. Columns found: prompt"],
    ),
    "column that is none of ours": (
        words("--column", "colour=prompt"),
        ["colour is no column that batchgen reads; expected COLUMN=YOURS", "negative_prompt"],
    ),
    "--column without =": (words("--column", "prompt"), ["--column prompt: expected NAME=YOURS"]),
    "columns of another type": (
        job("[manifest]\ncolumns = ['prompt']\n"),
        ["manifest.columns = ['prompt']", 'prompt = "caption"'],
    ),
    "no prompt column": (only(text=["a cat"]), ["bad.parquet: no column prompt", "found: text"]),
    "int prompts": (
        only(prompt=[1, 2]),
        ["bad.parquet, column prompt: found type int64, expected a string type"],
    ),
    "string seeds": (
        table(seed=["1"]),
        ["bad.parquet, column seed: found type string, expected an integer type"],
    ),
    "width of half a pixel": (
        table(width=[512.5]),
        ["row 0 of", "column width: 512.5; expected px"],
    ),
    # rows
    "null prompt": (
        only(prompt=["a cat", None]),
        ["row 1 of", "bad.parquet, column prompt: is null; expected a text"],
    ),
    "empty prompt": (only(prompt=["a cat", ""]), ["row 1 of", "column prompt: is empty"]),
    "blank prompt": (
        only(prompt=["a cat", " \t"]),
        ["row 1 of", "column prompt: holds only whitespace"],
    ),
    "NUL in a prompt": (only(prompt=["a\0cat"]), ["row 0 of", "column prompt:", "NUL"]),
    "100,000 characters": (
        only(prompt=["cat " * 25_000]),
        ["row 0 of", "tokens, the limit is 32", "long_prompts=truncate"],
    ),
    "duplicate ids": (
        table(id=["a", "b", "a"]),
        ["row 2 of", "column id: 'a' is also the id of row 0"],
    ),
    "id of 300 characters": (
        table(id=["x" * 300]),
        ["row 0 of", "column id:", "(300 characters)", "at most 256"],
    ),
    "id with a newline": (table(id=["a\nb"]), ["row 0 of", "column id:", "control character"]),
    "negative seed": (
        table(seed=[-1]),
        ["row 0 of", "column seed: -1; expected an integer from 0"],
    ),
    "seed of 64 bits": (
        table(seed=pa.array([2**63], pa.uint64())),
        ["column seed: 9223372036854775808; expected"],
    ),
    "width 17": (
        table(width=[17]),
        ["row 0 of", "column width: 17; expected px, a multiple of 16 from 16 to 1024"],
    ),
    "width 0": (table(width=[0]), ["row 0 of", "column width: 0; expected px"]),
    "steps 0": (
        table(steps=[0]),
        ["row 0 of", "column steps: 0; expected an integer from 1 to 1000"],
    ),
    "images -1": (
        table(images=[-1]),
        ["row 0 of", "column images: -1; expected an integer from 1"],
    ),
    "infinite guidance": (
        table(guidance=[float("inf")]),
        ["row 0 of", "column guidance: inf; expected a finite number"],
    ),
    "many at once": (table(width=[17] * 12), ["12 problems", "the first 10", "row 9 of"]),
    # the job
    "missing job file": (
        words("--job", "/nowhere/job.toml"),
        ["/nowhere/job.toml: no such job file"],
    ),
    "job that is not TOML": (job("[engine\n"), ["job.toml: not TOML", "line 1"]),
    "unknown job key": (
        job("[engine]\nbatchsize = 4\n"),
        ["job.toml", "engine.batchsize: unknown key; accepted here: ", "batch_size"],
    ),
    "unknown section": (
        job("[motor]\nx = 4\n"),
        ["job.toml", "motor: unknown key; accepted here: ", "engine"],
    ),
    "wrong value": (
        job("[output]\nformat = 'gif'\n"),
        ["job.toml", "output.format = 'gif'", "'jpg', 'png' or 'webp'"],
    ),
    "unknown --set": (
        words(*settings(sampling__step=4)),
        ["sampling.step: unknown key; accepted here: ", "steps"],
    ),
    "--set without =": (
        words("--set", "sampling.steps"),
        ["--set sampling.steps: expected section.key=value"],
    ),
    "NaN in --set": (
        words(*settings(sampling__guidance="nan")),
        ["sampling.guidance = nan", "finite number"],
    ),
    "unknown model path": (
        words(*settings(model__path="/nowhere/model")),
        ["/nowhere/model", "no such folder", "model_index.json"],
    ),
    "unknown hub model": (words(*settings(model__path="nobody/nothing")), ["nobody/nothing"]),
    # what the model cannot do
    "width beyond the model's positions": (
        small_sd3(width=[208, 224]),
        ["row 1 of", "column width: 224; expected px", "to 208 for this"],
    ),
    "job's width beyond them": (
        small_sd3(height=[64], job="width = 224"),
        ["sampling.width: 224; expected px", "to 208 for this model"],
    ),
    "job's width where a row has none": (
        small_sd3(width=[64, None], job="width = 224\nheight = 64"),
        ["row 1 of", "null, and sampling.width = 224"],
    ),
    "true_cfg without a meaning": (
        small_sd3(true_cfg=[1.0, 2.5]),
        ["row 1 of", "column true_cfg: 2.5; this family has one guidance scale"],
    ),
    "key that nothing reads": (
        words(*settings(cache__threshold=0.1)),
        ["cache.threshold would have no effect", "--set cache.policy=first_block, or leave"],
    ),
    "key of a file that nothing reads": (
        job("[output]\nformat = 'png'\nquality = 90\n"),
        ["job.toml", 'read where output.format is "jpg" or "webp", and here it is "png"'],
    ),
    "negative prompt without a scale": (
        words(*settings(sampling__negative_prompt="grey")),
        ['sampling.negative_prompt = "grey" changes no picture', "--set sampling.true_cfg=4"],
    ),
    "job's negative prompt over the limit": (
        words(*settings(sampling__negative_prompt="red cat " * 20, sampling__true_cfg=4)),
        ["sampling.negative_prompt: ", "tokens, the limit is 32: shorten it"],
    ),
    "fewer tokens than ranks": (
        words(
            *settings(parallel__cp=2, sampling__width=16, sampling__height=16, engine__device="cpu")
        ),
        ["a picture of 16×16 px has 1 token, and each rank needs one. --set parallel.cp=1"],
    ),
    "size of which the embedded model knows nothing": (
        words(*settings(sampling__width=2048)),
        ["sampling.width: 2048; expected px", "to 1024 for this model"],
    ),
    "mesh that does not come out": (
        words(*settings(parallel__cp=4, parallel__ulysses=3, engine__device="cpu")),
        ["ulysses * ring = 3 * 1 = 3, but cp = 4"],
    ),
    "policy that needs more": (
        words(*settings(cache__policy="schedule")),
        ['policy = "schedule" needs skip'],
    ),
    "policy of another family": (
        small_sd3(seed=[1], job="", cache="policy = 'teacache'"),
        ["coefficients are published for flux, not for sd3"],
    ),
    "per-tensor FP8 in groups": (
        words(*settings(precision__linear="fp8", precision__granularity="tensor")),
        ["groups of 8 pictures"],
    ),
    "several at once": (
        words(
            *settings(
                parallel__cp=3,
                parallel__ulysses=3,
                cache__policy="schedule",
                engine__attention="cudnn",
                engine__device="cpu",
            )
        ),
        ["4 % 3 = 1", "needs skip", "cudnn"],
    ),
    "missing LoRA": (
        job("[model]\nlora = [{path = '/nowhere/lora.safetensors'}]\n"),
        ["/nowhere/lora.safetensors"],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_told_by_plan_and_submit_and_blocks_nothing(name: str, tmp_path: Path) -> None:
    make, told = ROWS[name]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    given, run = make(inputs), tmp_path / "run"
    for verb in (["plan"], ["submit", "--out", run]):
        answer = ask(*verb, *given)
        assert answer.code == 2, answer
        assert answer.err.startswith("batchgen: ")
        assert [part for part in told if part not in answer.err] == [], answer.err
        assert len(answer.err) < 3000
    assert not run.exists()
    good = write_prompts(tmp_path / "good.parquet", ["a cat"])
    _, new = create(run, [good], *locate_model(load_job(None)))
    assert new, "the corrected submit must find nothing in its way"


GOOD = {
    "dictionary": pa.array(["a cat", "a dog", "a cat"]).dictionary_encode(),
    "large_string": pa.array(["a cat", "a dog", "a fox"], pa.large_string()),
    "string_view": pa.array(["a cat", "a dog", "a fox"], pa.string_view()),
    "emoji and right-to-left": ["🐈 👩‍👩‍👧", "קנגורו عربي", "\u202eevil\u202c \\ \" ' [/b] %s {x}"],
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_but_good_prompts_are_planned(name: str, tmp_path: Path) -> None:
    answer = ask("plan", *only(prompt=GOOD[name])(tmp_path))
    assert (answer.code, answer.err) == (0, "")
    assert "3 rows, 3 pictures" in answer.out


@pytest.mark.parametrize(
    ("out", "told"),
    {
        "below a file": ("file/run", "file/run: cannot hold a run: Not a directory"),
        "a file": ("file", "file: cannot hold a run: Not a directory"),
        "a kernel folder": ("/proc/run", "/proc/run: cannot hold a run"),
        "a name too long": ("x" * 300, "File name too long"),
        "someone's folder": ("full", "full: not empty (diary.txt, …) and not a run of batchgen"),
    }.values(),
)
def test_a_folder_that_cannot_hold_a_run_is_refused(out: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("")
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    answer = ask("submit", file, "--out", tmp_path / out)
    assert answer.code == 2
    assert told in answer.err
    assert not (tmp_path / "full" / ".batchgen").exists()


@pytest.mark.parametrize("words", [["plan"], ["submit", "--rehearse", "--out"], ["status"]])
def test_a_name_of_100_000_characters_is_cut_in_the_message(
    words: list[str], tmp_path: Path
) -> None:
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    answer = ask(*words[:1], *([file] if words[1:] else []), *words[1:], tmp_path / ("x" * 100_000))
    assert answer.code == 2
    assert answer.err.startswith(f"batchgen: {tmp_path}/xxx")
    assert len(answer.err) < 11_000


def test_a_gpu_that_is_not_there_is_told_before_anything_is_planned_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    answer = ask("submit", file, "--out", tmp_path / "run", *settings(engine__device="cuda"))
    assert answer.code == 2
    assert 'engine.device = "cuda": this machine has no GPU' in answer.err
    assert not (tmp_path / "run").exists()


def test_memory_that_will_not_suffice_is_told_by_plan_and_submit_before_anything_starts(
    tmp_path: Path, driver: Driver
) -> None:
    driver("GPU-aa, 24564, 8.9, NVIDIA GeForce RTX 4090")
    model = write_full_size(tmp_path / "flux-dev")
    size = settings(model__path=model, sampling__width=1024, sampling__height=1024)
    file = write_prompts(tmp_path / "p.parquet", ["a cat"] * 8)
    for verb in (["plan"], ["submit", "--out", tmp_path / "run"]):
        answer = ask(*verb, file, *size)
        assert answer.code == 2
        assert "batchgen: memory: about 41." in answer.err
        assert "NVIDIA GeForce RTX 4090 has 25.8 GB" in answer.err
        assert "--set precision.linear=fp8 saves" in answer.err
    assert not (tmp_path / "run").exists()
    driver("GPU-aa, 81559, 9.0, NVIDIA H100 80GB HBM3")
    answer = ask("plan", file, *size)
    assert (answer.code, answer.err) == (0, "")
    assert "memory     about 41." in answer.out
    assert "NVIDIA H100 80GB HBM3 has 85.5 GB" in answer.out


def test_jobs_that_the_gpus_of_a_site_profile_cannot_compute_are_refused(tmp_path: Path) -> None:
    profile = 'gpus_per_node = 8\ntime = "1:00:00"\ngpu_memory_gib = 24\ngpu_capability = "8.6"\n'
    (tmp_path / "site.toml").write_text(profile)
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    site = ["--site", tmp_path / "site.toml"]
    refused = ask("plan", file, *site, *settings(precision__linear="fp8"))
    assert refused.code == 2
    assert "compute capability 8.6: FP8 products need 8.9" in refused.err
    model = write_full_size(tmp_path / "flux-dev")
    refused = ask("plan", file, *site, *settings(model__path=model))
    assert refused.code == 2
    assert "a GPU of the site has 25.8 GB" in refused.err


def test_a_run_is_resumed_only_where_its_precision_can_be_computed(
    tmp_path: Path, driver: Driver
) -> None:
    run = tmp_path / "run"
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    create(run, [file], *locate_model(load_job(None, ["precision.linear=fp8"])))
    driver("GPU-aa, 23028, 8.6, NVIDIA A10")
    answer = ask("resume", run)
    assert answer.code == 2
    assert "compute capability 8.6: FP8 products need 8.9" in answer.err
    changed = ask("resume", run, *settings(precision__linear="int8"))
    assert changed.code == 2
    assert 'precision.linear: "fp8" → "int8"' in changed.err


def test_the_folder_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = tmp_path / "run"
    file = write_prompts(tmp_path / "a.parquet", ["a cat"])
    create(run, [file], *locate_model(load_job(None)))
    other = write_prompts(tmp_path / "b.parquet", ["a dog"])
    answer = ask("submit", other, "--out", run, *settings(sampling__steps=3))
    assert answer.code == 2
    assert "run was planned from other inputs" in answer.err
    assert "manifest: [" in answer.err
    assert "sampling.steps: 28 → 3" in answer.err
    assert "--out ANOTHER_FOLDER" in answer.err


@pytest.mark.parametrize("verb", ["resume", "status", "logs", "verify", "cancel"])
def test_a_folder_that_is_no_run_is_told_by_every_verb(verb: str, tmp_path: Path) -> None:
    answer = ask(verb, tmp_path)
    assert answer.code == 2
    assert f"{tmp_path}: not a run directory" in answer.err


def test_a_run_that_was_planned_and_never_started_is_stalled_and_tells_what_to_type(
    tmp_path: Path,
) -> None:
    file = write_prompts(tmp_path / "a.parquet", ["a cat"])
    create(tmp_path / "run", [file], *locate_model(load_job(None)))
    answer = ask("status", tmp_path / "run", "--json")
    told = json.loads(answer.out)
    assert answer.code == 5
    assert (told["state"], told["rows"], told["pending"]) == ("stalled", 1, 1)
    assert told["next"] == f"batchgen resume {tmp_path / 'run'}"
