"""The manifest's files of a run, found again where they were moved.

A run is its manifest's content, and the plan says where that was. It is never changed: the new
places stand in `moved.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from batchgen import durable
from batchgen.checked_json import seal
from batchgen.errors import PlanChanged, shell_command
from batchgen.manifest import Source, find_files, identify_file
from batchgen.planning import Plan
from batchgen.run.directory import RunDirectory
from batchgen.run.state_file import read_state


@dataclass(frozen=True, slots=True)
class _Moved:
    """The content of `moved.json`: the plan's sources, where they are now."""

    sources: tuple[Source, ...]


def with_present_places(directory: RunDirectory, plan: Plan) -> Plan:
    """The plan with the places where its Parquet files are now."""
    try:
        moved = {file.sha256: file for file in read_state(directory.moved, _Moved).sources}
    except FileNotFoundError:
        moved = {}
    now = []
    for source in plan.sources:
        if inside := _within(source):  # of the run, which may have been moved itself
            now.append(replace(source, path=str(directory.inner / inside)))
        else:
            now.append(replace(moved.get(source.sha256, source), rows=source.rows))
    return plan.model_copy(update={"sources": tuple(now)})


def note_moved(directory: RunDirectory, plan: Plan, manifest: Sequence[str | Path]) -> Plan:
    """Remember where the manifest is now.

    :param manifest: files, globs or folders: all files of the manifest, in any order.
    :return: the plan with these places.
    :raises ManifestError: there is no such manifest.
    :raises PlanChanged: the content is not what was planned.
    """
    found = [identify_file(path, 0) for path in find_files(manifest)]
    added = [one.added for one in plan.later if one.added]
    wanted = [*plan.identity["manifest"], *(sha256 for one in added for sha256 in one.content)]
    if sorted(wanted) != sorted(file.sha256 for file in found):
        other = next((file.path for file in found if file.sha256 not in wanted), found[-1].path)
        resume = shell_command("batchgen", "resume", directory.root, "--manifest", "FILES")
        raise PlanChanged(
            f"{other}: not the content that this run was planned from, which is {len(wanted)} "
            f"files with the names {', '.join(plan.manifest[:3])}. Give these files, unchanged, "
            f"where they are now: {resume}"
        )
    # Files of equal content are as good as each other. Those inside are needed no more.
    places = {file.sha256: file for file in found}
    needed = [source for source in plan.sources if not _within(source)]
    if needed:
        now = tuple(replace(places[source.sha256], rows=source.rows) for source in needed)
        durable.replace(directory.moved, seal(asdict(_Moved(now))))
    return with_present_places(directory, plan)


def refuse_missing(directory: RunDirectory, plan: Plan) -> None:
    """Check that the manifest's files are there.

    :raises PlanChanged: one is not; with the command for files that were moved.
    """
    for source in plan.sources:
        if not Path(source.path).exists():
            resume = shell_command("batchgen", "resume", directory.root, "--manifest", "NEW_PATH")
            moved = "Put it back from a copy" if _within(source) else f"If it was moved: {resume}"
            raise PlanChanged(
                f"{source.path}: the manifest this run was planned from cannot be read: No such "
                f"file or folder. {moved}"
            )


def _within(source: Source) -> str:
    """Where a file is in `.batchgen/`, if it was converted or fetched into it; "" if it was not."""
    parts = Path(source.path).parts
    for depth in (2, 1):
        if parts[-depth - 1 : -depth] == (".batchgen",) and parts[-depth].startswith("manifest"):
            return "/".join(parts[-depth:])
    return ""
