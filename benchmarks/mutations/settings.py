"""Mutated job files and site profiles.

Values of an accepted job file are compared with those that `tomllib` reads.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from batchgen.settings import load_job
from benchmarks.mutations.hostile import DEPTH, TEXTS, mutate_file, mutated, mutated_bytes, value
from benchmarks.mutations.trial import Trial

ROOT = Path(__file__).parents[2]
# Sound job files: one in which most keys stand, and what other ones say instead.
_JOB: dict[str, Any] = {
    "model": {"path": "tiny", "max_sequence_length": 32, "long_prompts": "refuse"},
    "sampling": {
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance": 3.5,
        "true_cfg": 2.0,
        "negative_prompt": "blurred",
        "images": 1,
        "seed": 7,
    },
    "engine": {"kind": "torch", "device": "cpu", "batch_size": 4, "threads": 1},
    "precision": {"linear": "fp32", "text": "none"},
    "cache": {"policy": "first_block", "threshold": 0.1, "blocks": 1, "warmup": 1},
    "parallel": {"cp": 1, "ulysses": 1, "ring": 1},
    "compile": {"mode": "none"},
    "output": {"format": "jpg", "quality": 90, "license": "cc0-1.0"},
    "shards": {"pictures": 4},
    "splits": {"validation": 0.02, "test": 0.01},
    "run": {"workers": 1, "failure_budget": 0.1, "group_timeout_s": 600.0, "time_limit_s": 60.0},
}
_OTHERWISE: tuple[dict[str, Any], ...] = (
    {},
    {"cache": {"policy": "schedule", "skip": [2, 4]}},
    {"cache": {"policy": "none"}, "output": {"format": "webp", "lossless": True}},
    {
        "cache": {"policy": "none"},
        "sampling": {"steps": 3, "shift": 3.0, "sigmas": [1.0, 0.5, 0.1]},
    },
    {"cache": {"policy": "teacache", "threshold": 0.2}, "output": {"format": "png"}},
    {"engine": {"kind": "pattern", "batch_size": 2}, "pattern": {"delay_s": 0.0}},
)
_SITE: dict[str, Any] = {
    "partition": "gpu",
    "account": "me",
    "qos": "normal",
    "constraint": "h100",
    "nodes": 2,
    "max_running": 1,
    "gpus_per_node": 0,
    "workers_per_node": 2,
    "cpus_per_gpu": 4,
    "mem": "64G",
    "time": "04:00:00",
    "signal_s": 120,
    "requeue": True,
    "poll_s": 60,
    "setup": ["module load cuda", "export A=1"],
    "python": "python3",
    "comment": "for me",
    "sbatch": ["--exclusive", "--mail-type=FAIL"],
    "srun": ["--cpu-bind=cores"],
}


def prompts(folder: Path) -> Path:
    """A sound manifest."""
    path = folder / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["a red circle", "a blue square"]}), path)
    return path


def job_trial(chance: Random, folder: Path) -> Trial:
    """A job file with one mutation, planned."""
    path = folder / chance.choice(("job.toml", "job.toml", "job", "j%j ob.toml", "x\x1b[1m.toml"))
    about = _write(chance, path, chance.choice(sound_jobs()))
    commands = [["plan", prompts(folder), "--job", path, *_site_words(chance, folder)]]
    return Trial(f"job file: {about}", commands, wrong_if_accepted=lambda _: _wrong_job(path))


def site_trial(chance: Random, folder: Path) -> Trial:
    """A site profile with one mutation, planned."""
    path = folder / "site.toml"
    about = _write(chance, path, chance.choice(sound_sites()))
    device = ["--set", "engine.device=cpu"] if chance.random() < 0.5 else []
    commands = [["plan", prompts(folder), *device, "--site", path]]
    return Trial(f"site profile: {about}", commands)


def _site_words(chance: Random, folder: Path) -> list[object]:
    if chance.random() < 0.8:
        return []
    (folder / "site.toml").write_text(tomli_w.dumps(_SITE))
    return ["--site", folder / "site.toml"]


@cache
def sound_jobs() -> tuple[str, ...]:
    """Job files that are accepted: the examples, of the embedded model, and some that say more."""
    examples = (path.read_text() for path in sorted(ROOT.glob("jobs/*.toml")))
    # LoRAs of other models do not fit the embedded one, and negative prompts need its `true_cfg`.
    alone = (re.sub(r"(?m)^\[\[model\.lora\]\]\n(.+\n)+", "", text) for text in examples)
    other = "path|max_sequence_length|negative_prompt"
    small = (re.sub(rf"(?m)^({other}) = .*", "", text) for text in alone)
    # It makes no picture of more than 1024 px.
    small = (re.sub(r"(?m)^(width|height) = 1328", r"\1 = 1024", text) for text in small)
    tiny = '[model]\npath = "tiny"\nmax_sequence_length = 32\n'
    jobs = (tomli_w.dumps(_JOB | other) for other in _OTHERWISE)
    return (*(text.replace("[model]\n", tiny) for text in small), *jobs)


@cache
def sound_sites() -> tuple[str, ...]:
    """Site profiles that are accepted: the example, and one in which every key stands."""
    return (ROOT / "slurm" / "example.toml").read_text(), tomli_w.dumps(_SITE)


def _write(chance: Random, path: Path, text: str) -> str:
    """Write a TOML file with a mutation of its text or of its values; what was mutated."""
    if chance.random() < 0.3:
        path.write_text(text)
        return mutate_file(chance, path, _mutated_toml, strange=0.3)
    content, about = mutated(chance, tomllib.loads(text))
    try:
        path.write_text(tomli_w.dumps(content))
    except (TypeError, ValueError, AttributeError):  # null, half a character, or no table
        path.write_text(_as_toml(content), "utf-8", "surrogatepass")
    return about


def _mutated_toml(chance: Random, data: bytes) -> tuple[bytes, str]:
    """The text of a TOML file with one mutation."""
    lines = data.decode().splitlines()
    places = [place for place, line in enumerate(lines) if "=" in line and line[0] != "#"]
    kind = chance.randrange(8)
    if kind < 3 or not places:
        return mutated_bytes(chance, data)
    place = chance.choice(places)
    if kind == 3:
        about = f"{lines[place]} twice"
        lines.insert(place, lines[place])
    elif kind == 4:
        deep = chance.choice(("[" * DEPTH, "[" * 500 + "]" * 500, "{a=" * 500 + "1" + "}" * 500))
        about, lines[place] = "deep nesting", lines[place].split("=")[0] + f"= {deep}"
    elif kind == 5:
        given = chance.choice(("1979-05-27", "0x10", "1_0", "'''x'''", "{}", "inf", "9" * 5_000))
        lines[place] = lines[place].split("=")[0] + f"= {given}"
        about = lines[place][:60]
    elif kind == 6:
        about = f"a line {chance.choice(TEXTS)[:40]!r}"
        lines.insert(place, chance.choice(TEXTS))
    else:
        about, lines[place] = f"{lines[place]} dotted", "a." + lines[place].lstrip()
    return "\n".join(lines).encode("utf-8", "surrogatepass"), about


def _as_toml(content: Any) -> str:
    """Nested values in the way of TOML, where a TOML writer refuses them."""
    if not isinstance(content, dict):
        return json.dumps(content)
    heads = [
        f"{json.dumps(key)} = {json.dumps(v)}"
        for key, v in content.items()
        if not isinstance(v, dict)
    ]
    tables = [(key, v) for key, v in content.items() if isinstance(v, dict)]
    for key, table in tables:
        heads.append(f"[{json.dumps(key)}]")
        heads += [f"{json.dumps(name)} = {json.dumps(v)}" for name, v in table.items()]
    return "\n".join(heads) + "\n"


def _wrong_job(path: Path) -> str:
    """What an accepted job file says and the job does not; "" for nothing."""
    asked = tomllib.loads(path.read_text("utf-8"))
    return differs(asked, load_job(path).model_dump(mode="json"))


def differs(asked: Any, got: Any, name: str = "") -> str:
    """The first value that was asked for and is another one; "" if there is none."""
    if isinstance(asked, dict):
        inner = (differs(asked[key], got.get(key), f"{name}.{key}") for key in asked)
        return next((one for one in inner if one), "")
    if asked == got and isinstance(asked, bool) == isinstance(got, bool):
        return ""
    return f"{name.removeprefix('.')} = {asked!r} was accepted as {got!r}"


def any_override(chance: Random) -> str:
    """A `section.key=value` for `--set`, mutated."""
    section = chance.choice(list(_JOB))
    key = chance.choice(list(_JOB[section]))
    name = chance.choice(
        (f"{section}.{key}",) * 6
        + (section, key, f"{section}.{key}.x", f" {section}.{key} ", "", ".")
    )
    if chance.random() < 0.1:
        name = chance.choice(TEXTS[:50])
    given = chance.choice((value(chance), chance.choice(TEXTS), _JOB[section][key]))
    text = given if isinstance(given, str) else json.dumps(given)
    return f"{name}={text}" if chance.random() < 0.95 else name
