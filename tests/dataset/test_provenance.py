"""What pictures, records and the card say of where pictures come from."""

import hashlib
import tarfile
from pathlib import Path

from tests.support.rehearsal import Answer, records

Finished = tuple[Path, Answer]


def test_records_have_the_hashes_of_their_pictures_and_none_of_failed_ones(
    finished: Finished,
) -> None:
    run, rows = finished[0], records(finished[0])
    for row in rows:
        if row["outcome"] == "failed":
            assert (row["sha256"], row["phash"]) == (None, None)
            continue
        with tarfile.open(run / row["tar"]) as tar:
            image = tar.extractfile(f"{row['key']}.jpg").read()
        assert row["sha256"] == hashlib.sha256(image).hexdigest()
        assert row["image_bytes"] == len(image)
        assert len(row["phash"]) == 16
    assert len({row["phash"] for row in rows if row["phash"]}) > 20
