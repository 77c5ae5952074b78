"""The chat template of a tokenizer: what a language model's prompt stands in.

transformers renders it where prompts are encoded. Here it is rendered without transformers, which
takes seconds to import, so that planning counts the tokens that the encoder will see. As there,
nothing that a template holds can run code or change anything: jinja2 renders it in a sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.model.families.facts import Messages, prompt_alone
from batchgen.model.folder import check_file, read_json

# Stands for a prompt when a template is tried.
_SAMPLE = "a red circle"
# Two days without anything in common, for templates that ask for the date (`strftime_now`).
_DAYS = datetime(2000, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2031, 12, 29, 15, 45, 50, tzinfo=UTC)


def read_chat_template(
    folder: Path, values: Mapping[str, Any], messages: Callable[[str], Messages] = prompt_alone
) -> Callable[[str], str]:
    """A function from a prompt to the text that the tokenizer is given.

    :param folder: of the tokenizer.
    :param values: what the template is told beside the conversation: what it asks for, and the
        tokenizer's special tokens. Unless it says otherwise, the answer is begun.
    :param messages: from a prompt to the conversation.
    :raises ModelError: there is no template, it does not hold the prompt, or it tells the date.
    """
    # Imported here, because families without a template need none.
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    where, source = _source(folder)
    again = "fetch the folder again"
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _DAYS[0].strftime}
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise ModelError(f"{where}: not a chat template: {error}; {again}.") from None

    def render(prompt: str, **others: object) -> str:
        told = {"messages": messages(prompt), "add_generation_prompt": True, **values, **others}
        try:
            return template.render(told)
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"{where}: the chat template fails: {error}; {again}.") from None

    if _SAMPLE not in render(_SAMPLE):
        raise ModelError(f"{where}: the chat template leaves the prompt out; {again}.")
    if render(_SAMPLE) != render(_SAMPLE, strftime_now=_DAYS[1].strftime):
        raise ModelError(
            f"{where}: the chat template tells the model the date, so pictures would depend on the "
            "day they are made. Write a fixed date in the place of strftime_now"
        )
    return render


def _refuse(message: str) -> None:
    """What a template calls that was given a conversation it is not for."""
    from jinja2 import TemplateError

    raise TemplateError(message)


def _source(folder: Path) -> tuple[Path, str]:
    """The template's file, and its text. A file of its own goes before tokenizer_config.json."""
    own, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.exists():
        check_file(own)
        try:
            return own, own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{own}: cannot be read: {error}; fetch it again.") from None
    source = read_json(settings).get("chat_template")
    if not isinstance(source, str):
        raise ModelError(
            f"{folder}: no chat template, neither as {own.name} nor in {settings.name}. The text "
            "encoder is a language model, and was trained with one: fetch the folder again."
        )
    return settings, source
