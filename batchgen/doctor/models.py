"""A job's model and LoRAs, and the hub: reachable, or offline on purpose. No token is printed.

Models are fetched where a run is submitted. Its nodes only need to see what was fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchgen.doctor.child import NoAnswer, attempt
from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.errors import ModelError, shell_command
from batchgen.model.folder import expand_home
from batchgen.model.locate import INDEX, is_on_hub, locate
from batchgen.settings import Job

# Its own time limit is shorter; names of hosts are looked up without any.
_LIMIT_S = 45.0


def located(job: Job) -> Job:
    """The job with absolute paths, as a node gets it; a model of the hub by where its cache is."""
    import huggingface_hub  # here, because it takes a third of a second

    model, path = job.model, job.model.path
    if is_on_hub(model):
        index = huggingface_hub.try_to_load_from_cache(path, INDEX, revision=model.revision or None)
        path = str(Path(index).parent) if isinstance(index, str) else path
    elif path != "tiny":
        path = str(expand_home(path).absolute())
    loras = tuple(
        lora.model_copy(update={"path": str(expand_home(lora.path).absolute())})
        for lora in model.lora
    )
    kept = {"path": path, "lora": loras, "revision": "" if path != model.path else model.revision}
    return job.model_copy(update={"model": model.model_copy(update=kept)})


def model_files(job: Job) -> Iterator[Finding]:
    """Whether this machine sees the job's model and LoRAs. What is in them `plan` checks."""
    shared = "Name one that this machine, or each node, sees: --set model.path=FOLDER"
    try:
        found = "" if is_on_hub(job.model) else str(locate(job.model))
    except ModelError as error:
        yield failed("model", str(error), shared)
        return
    missing = [lora.path for lora in job.model.lora if not expand_home(lora.path).exists()]
    if missing:
        yield failed("model", f"no such LoRA here: {', '.join(missing)}", shared)
    elif found:
        loras = f" and {len(job.model.lora)} LoRAs" if job.model.lora else ""
        yield ok("model", f"{found}{loras}")


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
