"""Mutated words of commands: `--set` values, options, paths that are no runs and no manifests."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from random import Random

from batchgen.settings import load_job
from benchmarks.mutations.hostile import NUMBERS, TEXTS, strange_file
from benchmarks.mutations.settings import any_override, differs, prompts
from benchmarks.mutations.trial import Answers, Trial

# Words of a command: they hold no NUL, and Linux takes no longer ones.
_WORDS = tuple(text[:100_000] for text in TEXTS if "\0" not in text)
VERBS = ("plan", "submit", "resume", "status", "logs", "verify", "cancel")
_OPTIONS = {
    "plan": ("--job", "--site", "--set", "--rehearse", "--out"),
    "submit": ("--job", "--site", "--out", "--set", "--detach"),
    "resume": ("--set", "--site", "--local", "--add", "--steal", "--detach"),
    "status": ("--json",),
    "logs": ("--worker", "--failed", "--lines"),
    "verify": ("--deep", "--repair"),
    "cancel": ("--now",),
}
_FLAGS = {"--rehearse", "--detach", "--local", "--steal", "--json", "--failed", "--deep", "--now"}


def trial(chance: Random, folder: Path) -> Trial:
    """A command with hostile words."""
    return chance.choice((_setting, _setting, _setting, _words, _path))(chance, folder)


def _setting(chance: Random, folder: Path) -> Trial:
    """A plan with a mutated `--set`."""
    overrides = [any_override(chance) for _ in range(chance.choice((1, 1, 1, 2)))]
    words = [word for one in overrides for word in ("--set", one)]
    small = ["--set", "sampling.width=64", "--set", "sampling.height=64"]
    return Trial(
        f"--set {overrides[0][:80]!r}",
        [["plan", prompts(folder), *small, *words]],
        wrong_if_accepted=lambda _: _wrong_setting(overrides),
    )


def _wrong_setting(overrides: list[str]) -> str:
    """What an accepted `--set` says and the job does not; "" for nothing."""
    job = load_job(None, overrides).model_dump(mode="json")
    for override in overrides[-1:]:
        name, _, text = override.partition("=")
        try:
            asked = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            asked = text.strip()
        for key in reversed(name.strip().split(".")):
            asked = {key: asked}
        return differs(asked, job)
    return ""


def _words(chance: Random, folder: Path) -> Trial:
    """A verb with options of any values."""
    verb = chance.choice(VERBS)
    words: list[object] = [verb]
    if chance.random() < 0.9:
        words.append(prompts(folder) if verb in ("plan", "submit") else folder / "no-run")
    for _ in range(chance.randrange(3)):
        option = chance.choice((*_OPTIONS[verb], "--unknown"))
        words.append(option)
        if option not in _FLAGS:
            words.append(chance.choice((*_WORDS[:-20], *NUMBERS, folder, "10", "job.toml")))
    if verb == "submit":
        words += ["--rehearse", "--detach"]
    return Trial(" ".join(map(str, words))[:120], [words])


def _path(chance: Random, folder: Path) -> Trial:
    """A file that is none, or a hostile name, in the place of a manifest, a job or a run."""
    verb = chance.choice((*VERBS, "submit"))
    name = chance.choice(
        ("x", "x.parquet", "x.csv", "a%jb", "$HOME", "n\nl", "\x1b[2J", "\udcff", "-x", "é")
    )
    path = folder / name
    about = strange_file(chance, path)
    if chance.random() < 0.2:
        path, about = Path(chance.choice(_WORDS[:45]) or "."), "a hostile text"
    words: list[object] = [verb, path]
    if verb == "submit":
        words = [verb, prompts(folder), "--rehearse", "--detach", "--out", path]
        if about == "a folder":
            (path / chance.choice(("README.md", "data", ".batchgen", "index.json"))).mkdir()
    return Trial(
        f"{verb} {os.fspath(path)[-60:]!r}: {about}",
        [words],
        wrong_always=lambda answers: _wrong_folder(answers, verb),
    )


def _wrong_folder(answers: Answers, verb: str) -> str:
    """Only `submit` makes a run; every other verb must refuse what is none."""
    return (
        f"{verb} accepts what is no run and no manifest"
        if verb != "submit" and answers[0].code == 0
        else ""
    )
