"""The hub of models: reachable, or offline on purpose. No token is ever printed."""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.doctor.child import NoAnswer, attempt
from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.errors import shell_command
from batchgen.model.locate import is_on_hub
from batchgen.settings import Job

# Its own time limit is shorter; names of hosts are looked up without any.
_LIMIT_S = 45.0


def hub(job: Job | None) -> Iterator[Finding]:
    """Whether models can be fetched, and whether the job's can."""
    model = job.model.path if job and is_on_hub(job.model) else ""
    try:
        answer = attempt(
            "hub", model, job.model.revision if job and model else "", limit_s=_LIMIT_S
        )
    except NoAnswer as silence:
        answer = {"offline": False, "cached": False, "token": None, "refused": False}
        answer["why"] = str(silence)
    token = {True: ", with a token", False: ", without a token", None: ""}[answer["token"]]
    reached = "offline, as HF_HUB_OFFLINE asks" if answer["offline"] else "reachable"
    if answer["why"]:
        reached = f"not reachable ({answer['why']})"
    if model and answer["refused"]:
        yield failed("hub", f"the hub refuses {model}{token}: {answer['why']}", _login(model))
    elif model and not answer["cached"] and (answer["offline"] or answer["why"]):
        yield failed("hub", f"{reached}, and its cache here lacks {model}", _fetch(model))
    elif answer["why"] and not answer["cached"] and job is None:
        remedy = "Fetch models elsewhere, or name folders; export HF_HUB_OFFLINE=1 saves the waits"
        yield warning("hub", reached, remedy)
    else:
        fits = f"; {model} is {'cached' if answer['cached'] else 'there'}" if model else ""
        unused = "; the job does not need it" if job and not model else ""
        yield ok("hub", f"{reached}{token}{fits}{unused}")


def _login(model: str) -> str:
    return f"Check model.path; accept its licence on https://huggingface.co/{model}; hf auth login"


def _fetch(model: str) -> str:
    fetch = shell_command("hf", "download", model, "--local-dir", "FOLDER")
    return f"Where there is a network: {fetch}, then --set model.path=FOLDER"
