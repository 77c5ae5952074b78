"""What a calibration found: rows of a table, calibration.json, and the job file with the choice."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from batchgen import __version__, durable
from batchgen.calibration.choice import Choice, Floor, choose
from batchgen.calibration.compare import Likeness, Measured
from batchgen.calibration.plot import draw_plot
from batchgen.calibration.trials import Grid
from batchgen.checked_json import seal
from batchgen.errors import brief, one_line
from batchgen.planning import ModelDigest, encode_schedule
from batchgen.settings import Cache, Job
from batchgen.settings.section import Section

HEADINGS = ("  setting", "computed", "PSNR, dB", "SSIM", "device s", "per hour", "×", "below")
LEGEND = (
    "Steps computed; PSNR and SSIM, mean/worst; device-seconds of a picture, and pictures per "
    "device-hour; pictures below the floor."
)
REHEARSED = "This was a rehearsal: test cards look alike with every cache, so it says nothing."
JOB, EVIDENCE, PLOT = "job.toml", "calibration.json", "calibration.svg"
SCHEDULE = "schedule.json"


@dataclass(frozen=True)
class Report:
    """Everything that a calibration knows at its end."""

    # The job that was given.
    job: Job
    # The manifest as it was given.
    manifest: tuple[str, ...]
    # The sampled pictures, by key.
    sample: pa.Table
    seed: int
    floor: Floor
    # What was measured, in the order of the grid; a family may have ended before its last setting.
    tried: Sequence[Sequence[Measured]]
    grid: Grid
    # The model that made the pictures; None for test cards.
    model: ModelDigest | None = None

    @property
    def plain(self) -> Measured:
        """The run without a cache."""
        return self.tried[0][0]

    @property
    def families(self) -> Sequence[Sequence[Measured]]:
        """What was measured with a cache; a list a policy, from careful to bold."""
        return self.tried[1:]

    @cached_property
    def choice(self) -> Choice:
        """What is recommended."""
        return choose(self.plain, self.families, self.floor)

    @property
    def cache(self) -> Cache:
        """The recommended `[cache]`."""
        trials = (trial for family in self.grid for trial in family)
        return next(one.job.cache for one in trials if one.name == self.choice.chosen.name)

    @property
    def rule(self) -> str:
        """What the recommended setting has kept, in a sentence."""
        return self.floor.told(len(self.plain.pictures))


def table_lines(report: Report) -> Iterator[str]:
    """The table as lines of text, the run without a cache first; the chosen one has an arrow."""
    measured = [report.plain, *(one for family in report.families for one in family)]
    rows = [HEADINGS, *(_row(report, one) for one in measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        setting, *numbers = zip(row, widths, strict=True)
        cells = [setting[0].ljust(setting[1]), *(text.rjust(width) for text, width in numbers)]
        yield "  ".join(cells)


def _row(report: Report, one: Measured) -> tuple[str, ...]:
    faster = report.plain.device_s / one.device_s if one.device_s else 0.0
    quality = ("", "", "")
    if one is not report.plain:
        (mean_db, worst_db), (mean, worst) = one.psnr_db, one.ssim
        below = f"{report.floor.misses(one)}/{len(one.pictures)}"
        quality = (f"{mean_db:.1f}/{worst_db:.1f}", f"{mean:.3f}/{worst:.3f}", below)
    return (
        f"{'→' if one is report.choice.chosen else ' '} {one.name}",
        f"{one.computed:.1f}/{one.steps:.0f}",
        *quality[:2],
        *(f"{one.device_s:.3f}", f"{one.pictures_per_device_hour:,.0f}", f"{faster:.2f}"),
        quality[2],
    )


def write_report(root: Path, report: Report) -> Path:
    """Write calibration.json, the plot, the job file with the choice, and its schedule file.

    :return: the job file.
    """
    svg, png = draw_plot(
        report.plain, report.families, report.choice.chosen, report.floor, _title(report)
    )
    durable.replace(root / PLOT, svg)
    durable.replace((root / PLOT).with_suffix(".png"), png)
    durable.replace(root / EVIDENCE, seal(_evidence(report), indent=1))
    cache, schedule = report.cache, root / SCHEDULE
    if cache.classes and report.model:
        durable.replace(schedule, encode_schedule(report.model, _origin(report), cache.classes))
        named = _plain(cache) | {"schedule": str(schedule.absolute())}
        del named["classes"]
        cache = Cache.model_validate(named)
    durable.replace(root / JOB, _job_file(report, cache).encode())
    return root / JOB


def _origin(report: Report) -> str:
    """Where the schedules come from, for people."""
    manifest = ", ".join(map(one_line, report.manifest))
    return f"batchgen calibrate {__version__}, {manifest}, seed {report.seed}"


def _title(report: Report) -> str:
    """The plot's first line."""
    names = Path(report.manifest[0]).name, report.job.model.path
    manifest, model = (brief(one_line(name), 40) for name in names)
    pictures = f"{report.sample.num_rows} pictures of {manifest}, model {model}"
    return f"{pictures}; chosen: {report.choice.chosen.name}"


def _evidence(report: Report) -> dict[str, Any]:
    every = [one for family in report.families for one in family]
    return {
        "version": __version__,
        "manifest": list(report.manifest),
        "pictures": report.sample.num_rows,
        "seed": report.seed,
        "floor": asdict(report.floor),
        "rule": report.rule,
        "cache": _plain(report.cache),
        "reason": report.choice.reason,
        "uncached": _numbers(report.plain),
        "tried": [
            _numbers(one)
            | {"psnr_db": one.psnr_db, "ssim": one.ssim, "below": report.floor.misses(one)}
            | {"classes": _classes(report.sample, one.pictures)}
            for one in every
        ],
    }


def _numbers(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.name,
        "steps": measured.steps,
        "computed": measured.computed,
        "device_s": measured.device_s,
        "noise": measured.noise,
        "pictures_per_device_hour": measured.pictures_per_device_hour,
    }


def _classes(sample: pa.Table, pictures: Sequence[Likeness]) -> dict[str, dict[str, float]]:
    """Pictures and worst values of each shape: a manifest may be hard in one class only."""
    rows = sample.to_pylist()
    found: dict[str, list[Likeness]] = defaultdict(list)
    for one in pictures:
        row = rows[one.key]
        negative = ", negative prompt" if row["negative_prompt"] else ""
        found[f"{row['width']}×{row['height']}, {row['steps']} steps{negative}"].append(one)
    return {
        name: {
            "pictures": len(some),
            "worst_psnr_db": min(one.psnr_db for one in some),
            "worst_ssim": min(one.ssim for one in some),
        }
        for name, some in found.items()
    }


def hardest_class(report: Report) -> str:
    """In which class the chosen setting has its worst picture; "" without a cache."""
    if report.choice.chosen is report.plain:
        return ""
    classes = _classes(report.sample, report.choice.chosen.pictures)
    name, worst = min(classes.items(), key=lambda one: one[1]["worst_psnr_db"])
    return f"its worst picture, {worst['worst_psnr_db']:.1f} dB, is one of {name}"


def _job_file(report: Report, cache: Cache) -> str:
    """The keys that the job has of its own, with the chosen cache, under a comment."""
    sections = {
        name: {key: value for key, value in _plain(section).items() if value is not None}
        for name, section in report.job.model_copy(update={"cache": cache})
    }
    text = tomli_w.dumps({name: keys for name, keys in sections.items() if keys})
    lines = [line for told in _told(report) for line in _wrapped(told)]
    comment = [*lines, "", *table_lines(report), *_wrapped(LEGEND)]
    return "".join(f"# {line}".rstrip() + "\n" for line in comment) + "\n" + text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, break_on_hyphens=False)


def _plain(section: Section) -> dict[str, Any]:
    """What a section says that is written or differs from the default, as TOML has it."""
    table = type(section)
    kept = {
        key
        for key, field in table.model_fields.items()
        if key in section.model_fields_set or getattr(section, key) != field.default
    }
    # Some defaults depend on other keys: what would be read back as something else is said too.
    again = table.model_validate(section.model_dump(mode="json", include=kept))
    kept |= {key for key in table.model_fields if getattr(again, key) != getattr(section, key)}
    return dict(section.model_dump(mode="json", include=kept))


def _told(report: Report) -> Iterator[str]:
    chosen, plain = report.choice.chosen, report.plain
    yield (
        f"[cache] was chosen by `batchgen calibrate` {__version__} on {report.sample.num_rows} "
        f"pictures of {', '.join(map(one_line, report.manifest))} (seed {report.seed})."
    )
    yield f"Chosen: {chosen.name}, {report.choice.reason}."
    if chosen is not plain:
        yield f"It kept: {report.rule}; {hardest_class(report)}."
    if report.job.engine.kind == "pattern":
        yield REHEARSED
    yield "This holds for this model and job, and for pictures like those of that manifest."
