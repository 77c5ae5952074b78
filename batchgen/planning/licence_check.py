"""An open licence for pictures of a model that may not be used commercially is refused.

Whoever takes a dataset believes the licence on its card. Licences of models differ in what they say
of outputs: some leave them free, some forbid to train on them. That has to be read by a person, so
the refusal can be lifted, `output.force_license = true`, and the card then says that it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from batchgen.errors import JobError, shell_command
from batchgen.model import Ingredient, forbids_commerce, is_open
from batchgen.settings import Output


def refuse_open_licence(output: Output, made_with: Sequence[Ingredient]) -> None:
    """Check the licence of the pictures against those of the model and its LoRAs.

    :raises JobError: it is open and one of theirs is non-commercial, which was not allowed; or that
        was allowed and is not so.
    """
    limiting = limits(output, made_with)
    stated = f"output.license = {json.dumps(output.license)}"
    if limiting and not output.force_license:
        theirs = " and ".join(f"{one.kind} {one.name} ({one.license})" for one in limiting)
        other = shell_command("--set", "output.license=other")
        force = shell_command("--set", "output.force_license=true")
        raise JobError(
            f"{stated} lets everybody use the pictures commercially, and a licence they are made "
            f"under is non-commercial: {theirs}. Read what it says of outputs. Name a licence that "
            f"it bears: {other}. Or, if it bears this one: {force}"
        )
    if output.force_license and made_with and not limiting:
        raise JobError(
            f"output.force_license = true has no effect: {stated} is not an open licence, or no "
            "licence of the model and its LoRAs is non-commercial. Leave it out"
        )


def limits(output: Output, made_with: Sequence[Ingredient]) -> list[Ingredient]:
    """The non-commercial ones under an open licence; none if the licence is not open."""
    return [one for one in made_with if is_open(output.license) and forbids_commerce(one.license)]


def note_on_licences(output: Output, made_with: Sequence[Ingredient]) -> Iterator[str]:
    """A sentence if an open licence could not be compared with all the others."""
    silent = [f"{one.kind} {one.name}" for one in made_with if one.license in ("", "other")]
    if silent and is_open(output.license):
        yield (
            f"output.license = {json.dumps(output.license)} could not be compared with the licence "
            f"of {', '.join(silent)}: the files beside the weights do not tell it"
        )
