from pathlib import Path

import pytest

from feat_fed.data.inventory.identity import keyed
from feat_fed.data.inventory.locate import locate
from feat_fed.errors import DataError

KEY = bytes(32)


def test_files_of_clips_are_found_without_walking_further_than_needed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    paths = [tmp_path / name for name in ("a.dcm", "b.dcm", "deep/c.dcm")]
    for path in paths:
        path.write_bytes(b"x")
    ids = {keyed("clip", str(path), key=KEY): path for path in paths}
    wanted = [clip_id for clip_id, path in ids.items() if path.name != "a.dcm"]

    def found(at_most: int, names: int) -> set[str]:
        return {
            each.name
            for each in locate([tmp_path], wanted, key=KEY, at_most=at_most, names=names).values()
        }

    assert found(9, 99) == {"b.dcm", "c.dcm"}
    assert found(1, 99) == {"b.dcm"}
    assert found(9, 2) == {"b.dcm"}
    assert locate([tmp_path], wanted, key=b"1" * 32, at_most=9, names=99) == {}
    with pytest.raises(DataError, match="does not exist"):
        locate([tmp_path / "gone"], wanted, key=KEY, at_most=9, names=99)
