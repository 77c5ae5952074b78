"""Find the files of a manifest, and refuse what is none, before a row is read."""

from __future__ import annotations

import glob
import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from batchgen.errors import ManifestError, one_line, shell_command

_KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
# Kinds that may be compressed as a whole; Parquet and Arrow compress inside.
_TEXT_KINDS = {"csv", "jsonl", "txt"}
ACCEPTED = f"a manifest is {', '.join(_KINDS)}, and .gz of .csv, .tsv, .jsonl, .ndjson or .txt"
# What to do about files that people have instead; words in capitals are for them to fill in.
_REMEDIES = {
    ".json": "write one object a line: jq -c '.[]' {file} > NAME.jsonl",
    ".xlsx": "save it as CSV UTF-8",
    ".xls": "save it as CSV UTF-8",
    ".ods": "save it as CSV UTF-8",
    ".zip": "unpack it first: unzip {file}",
    ".gz": "unpack it first: gunzip --keep {file}",
    ".zst": "unpack it first: unzstd {file}",
    ".xz": "unpack it first: unxz --keep {file}",
    ".bz2": "unpack it first: bunzip2 --keep {file}",
    ".tar": "give the tables inside of it",
}


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Find a manifest's files, sorted by absolute path, whatever the order of `paths`.

    :param paths: files, globs (`**` too) or folders. Of a folder, the files directly inside are
        taken, except those whose names begin with `.` or `_`; `.txt` only if there is nothing else.
        A folder that `datasets` saved gives the files that it lists.
    :raises ManifestError: there is no such file, it is not a regular file, an extension is unknown,
        a file is empty or given twice, or files are of several kinds.
    """
    files = sorted((file for path in paths for file in _expand(str(path))), key=Path.absolute)
    if not files:
        raise ManifestError(f"no manifest given: give a file, a glob or a folder; {ACCEPTED}")
    seen: set[Path] = set()
    for file in files:
        _check_file(file)
        if kind_of(file) != kind_of(files[0]):
            raise ManifestError(
                f"{files[0]} and {file}: files of one manifest must be of one kind: Parquet, CSV, "
                "JSON lines, text or Arrow"
            )
        if (target := file.resolve()) in seen:
            raise ManifestError(f"{file}: given twice; each of its rows would be planned twice")
        seen.add(target)
    return files


def _check_file(file: Path) -> None:
    """Check what can be told of a file without reading it.

    :raises ManifestError: it cannot be a manifest.
    """
    path = str(file.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{file}: the path is not UTF-8; rename it") from None
    if path.splitlines() != [path]:  # it would break the lines of messages
        raise ManifestError(f"{one_line(str(file))}: a line break in the path; rename it")
    if file.is_symlink() and not file.exists():
        raise ManifestError(f"{file}: a link to a file that is not there: {file.readlink()}")
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ManifestError(
            f"{file}: a {_what(status.st_mode)}, and a manifest is read more than once: write it "
            "to a file first"
        )
    refuse_unknown(file, str(file))
    if status.st_size == 0:
        raise ManifestError(f"{file}: the file is empty (0 bytes)")


def refuse_unknown(file: Path, path: str) -> None:
    """Refuse a file by its extension.

    :param path: what to call it.
    :raises ManifestError: it can be no manifest; with the remedy.
    """
    if not kind_of(file):
        remedy = _REMEDIES.get(file.suffix.lower(), "").format(file=shell_command(path))
        raise ManifestError(f"{path}: unknown extension {file.suffix!r}; {remedy or ACCEPTED}")


def _what(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "named pipe"
    if stat.S_ISDIR(mode):
        return "folder"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _expand(name: str) -> list[Path]:
    """Find the files that a word of the command line names."""
    path = Path(name)
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or path.is_symlink():
        return [path]
    if re.match(r"[A-Za-z][\w+.-]*://", name):
        raise ManifestError(f"{name}: an address; download it first, and give the file")
    if not glob.has_magic(name):
        raise ManifestError(f"{name}: no such file or folder")
    # Path.glob takes no absolute globs.
    found = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
    files = [file for file in found if not file.is_dir()]
    if found and not files:
        within = shell_command(f"{name.rstrip('/')}/*.parquet")
        raise ManifestError(f"{name}: matches only folders; give the files, for example {within}")
    if not files:
        raise ManifestError(f"{name}: no file matches this glob")
    return files


def _in_folder(folder: Path) -> list[Path]:
    """Find the manifest files directly inside of a folder.

    :raises ManifestError: there are none, or others in its subfolders.
    """
    if (folder / "dataset_dict.json").exists():
        parts = sorted(part for part in folder.iterdir() if part.is_dir())
        splits = " or ".join(shell_command(part) for part in parts)
        raise ManifestError(f"{folder}: several splits of a dataset; give one: {splits}")
    if (folder / "state.json").exists():
        return _saved_dataset(folder)
    inside = [file for file in folder.iterdir() if _is_visible(file) and not file.is_dir()]
    tables = [file for file in inside if kind_of(file) not in ("", "txt")]
    texts = [file for file in inside if kind_of(file) == "txt"]
    nested = _nested(folder)
    if nested:
        quoted = Path(glob.escape(str(folder)))
        name = f"*{''.join(nested.suffixes[-2:] if nested.suffix == '.gz' else [nested.suffix])}"
        every, here = shell_command(quoted / "**" / name), shell_command(quoted / name)
        direct = f", or {here} for those directly inside" if tables else ""
        raise ManifestError(
            f"{folder}: there are manifest files in its subfolders ({nested}, …); give {every} for "
            f"all of them{direct}"
        )
    if not tables and not texts:
        raise ManifestError(f"{folder}: no manifest files directly inside; {ACCEPTED}")
    return tables or texts


def _nested(folder: Path) -> Path | None:
    """Return the first table in a visible subfolder, at any depth."""
    for inner in sorted(folder.iterdir()):
        if not _is_visible(inner) or not inner.is_dir() or inner.is_symlink():
            continue
        for file in sorted(inner.iterdir()):
            if _is_visible(file) and not file.is_dir() and kind_of(file) not in ("", "txt"):
                return file
        if found := _nested(inner):
            return found
    return None


def _is_visible(path: Path) -> bool:
    return path.name[0] not in "._"


def _saved_dataset(folder: Path) -> list[Path]:
    """Return the files of a dataset that `datasets.save_to_disk` has written.

    Caches of the same library may lie beside them.

    :raises ManifestError: the folder does not say which files those are.
    """
    state = folder / "state.json"
    try:
        names = [str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{state}: does not list the files of a saved dataset ({error!r}); save it again, or "
            f"give {shell_command(folder / '*.arrow')}"
        ) from None
    files = [folder / name for name in names]
    missing = [file for file in files if file.parent != folder or not file.exists()]
    if missing or not files:
        gone = missing[0] if missing else folder / "*.arrow"
        raise ManifestError(f"{state}: names {gone}, which is not there; save the dataset again")
    return files


def kind_of(file: Path) -> str:
    """Return `parquet`, `csv`, `jsonl`, `txt` or `arrow`, by extension; "" for what is none."""
    if file.suffix.lower() == ".gz":
        inner = _KINDS.get(Path(file.stem).suffix.lower(), "")
        return inner if inner in _TEXT_KINDS else ""
    return _KINDS.get(file.suffix.lower(), "")
