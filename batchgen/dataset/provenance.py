"""Where a run's pictures come from: what the card, the pictures and signed manifests say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from batchgen.errors import counted, one_line
from batchgen.model import Ingredient, public_name
from batchgen.planning import Plan, limits
from batchgen.regular_file import read_regular
from batchgen.run import Run
from batchgen.settings import Job, keys_read

# Numbers of steps that the card lists.
_MANY = 5
_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def source_type(job: Job) -> str:
    """IPTC's term for where a run's pictures come from, as readers of XMP and C2PA know it.

    Test cards are drawn by an algorithm that has learned nothing.
    """
    learned = job.engine.kind != "pattern"
    return _VOCABULARY + ("trainedAlgorithmicMedia" if learned else "algorithmicMedia")


def how_made(run: Run) -> str:
    """Model, LoRAs, licences and settings: rows of a Markdown table of two columns."""
    return "\n".join(f"| {name} | {told} |" for name, told in _rows(run))


def forced_licence(run: Run) -> str:
    """A paragraph for the card if `output.force_license` acted, else nothing."""
    if not limits(run.job.output, run.plan.made_with):
        return ""
    return (
        "\nA licence above is non-commercial. Whoever planned the run has read it, and says that "
        f"it allows {_cell(run.job.output.license)} for the pictures (`output.force_license`).\n"
    )


def model_name(run: Run) -> str:
    """What the run's model is called."""
    made_with = run.plan.made_with
    return made_with[0].name if made_with else known_as(run.job.model.path)


def without_paths(job: Job) -> Job:
    """The job as strangers may read it: files and folders by their names alone."""
    loras = [one.model_copy(update={"path": known_as(one.path)}) for one in job.model.lora]
    named = {
        "model": {"path": known_as(job.model.path), "lora": tuple(loras)},
        "cache": {"schedule": known_as(job.cache.schedule), "trace": known_as(job.cache.trace)},
        "score": {"model": known_as(job.score.model)},
        "run": {
            "compile_cache": known_as(job.run.compile_cache),
            "quantized_weights": known_as(job.run.quantized_weights),
        },
    }
    sections = {
        section: getattr(job, section).model_copy(update=values)
        for section, values in named.items()
    }
    return job.model_copy(update=sections)


def known_as(path: str) -> str:
    """A file or folder by its name, or as the hub calls it: where it is here is nobody's business.

    Words that are no absolute path stay as they are.
    """
    return public_name(Path(path)) if Path(path).is_absolute() else path


def _rows(run: Run) -> Iterator[tuple[str, str]]:
    job = run.job
    yield from ((one.kind, _ingredient(one)) for one in run.plan.made_with)
    yield "licence of the pictures", _cell(job.output.license)
    yield "steps", _steps(run.plan)
    if job.engine.kind == "pattern":
        return
    yield "step cache", _settings(job, "cache")
    yield "precision", _settings(job, "precision")
    if run.directory.identity.exists():
        told = read_regular(run.directory.identity).decode(errors="replace")
        yield "computed on", f"`{_cell(told)}`"


def _ingredient(one: Ingredient) -> str:
    what = f"strength {one.strength:g}" if one.kind == "LoRA" else one.family
    licence = f"licence {_cell(one.license)}" if one.license else "its files tell no licence"
    return f"`{_cell(one.name)}`, {what}; {licence}; `{one.digest}`"


def _steps(plan: Plan) -> str:
    pictures: Counter[int] = Counter()
    for shape in plan.shapes:
        pictures[shape.steps] += shape.pictures
    if len(pictures) > _MANY:
        return f"{min(pictures)} to {max(pictures)}"
    if len(pictures) == 1:
        return str(*pictures)
    listed = (f"{steps} ({counted(pictures[steps], 'picture')})" for steps in sorted(pictures))
    return ", ".join(listed)


def _settings(job: Job, section: str) -> str:
    """The words and numbers of a section that are read; files are named by nobody."""
    values = {key: getattr(getattr(job, section), key) for key in keys_read(job, section)}
    files = ("schedule", "trace")
    told = [
        f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, str | int | float)
        and value != ""
        and value is not False
        and key not in files
    ]
    if values.get("classes"):
        told.append("schedules of its classes of pictures")
    return ", ".join(told)


def _cell(text: str) -> str:
    """A text that ends neither a cell of a table nor a code span."""
    return one_line(text).replace("|", "/").replace("`", "'")
