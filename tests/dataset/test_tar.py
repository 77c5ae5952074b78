"""Plain tools read a finished run: tarfile, and the wids index by its own description."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from tests.support.rehearsal import Answer, records

Finished = tuple[Path, Answer]


def members(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_every_good_picture_is_three_members_in_a_row(finished: Finished) -> None:
    run, _ = finished
    names = [name for path in sorted(run.glob("data/*.tar")) for name in members(path)]
    good = [record["key"] for record in records(run) if record["outcome"] == "ok"]
    assert names == [f"{key}.{kind}" for key in good for kind in ("jpg", "txt", "json")]


def test_a_sample_is_what_its_record_says(finished: Finished) -> None:
    run, _ = finished
    told = {record["key"]: record for record in records(run)}
    with tarfile.open(run / "data" / "000004.tar") as tar:
        content = {name: tar.extractfile(name).read() for name in tar.getnames()}
    for key in {name.split(".")[0] for name in content}:
        about, record = json.loads(content[f"{key}.json"]), told[key]
        size = Image.open(io.BytesIO(content[f"{key}.jpg"])).size
        assert size == (record["width"], record["height"])
        assert content[f"{key}.txt"].decode() == about["prompt"] == record["prompt"]
        for name in about.keys() - {"prompt"}:
            assert about[name] == record[name] or name == "extra"
        # Some rows have no score, and lists are JSON too.
        for name, value in about["extra"].items():
            told_value = json.loads(value) if isinstance(value, str) else value
            assert told_value == record["extra"][name]


def test_json_fields_have_one_type_in_all_samples(finished: Finished) -> None:
    run, _ = finished
    types = set()
    for path in sorted(run.glob("data/*.tar")):
        with tarfile.open(path) as tar:
            for name in [name for name in tar.getnames() if name.endswith(".json")]:
                about = json.loads(tar.extractfile(name).read())
                types.add(tuple((field, type(value).__name__) for field, value in about.items()))
    assert len(types) == 1, types


def test_the_wids_index_names_every_tar_with_its_size_sum_and_samples(finished: Finished) -> None:
    run, _ = finished
    index = json.loads((run / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    found = []
    for path in sorted(run.glob("data/*.tar")):
        data = path.read_bytes()
        sums = {
            "md5sum": hashlib.md5(data).hexdigest(),
            "nsamples": len(members(path)) // 3,
            "filesize": len(data),
        }
        found.append({"url": f"data/{path.name}"} | sums)
    assert index["shardlist"] == found
