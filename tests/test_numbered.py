"""Files by a round's number."""

from pathlib import Path

from feat_fed.numbered import NumberedFiles


def test_files_of_a_prefix_by_number(tmp_path: Path) -> None:
    files = NumberedFiles(tmp_path / "f", "after")
    assert files.numbers() == []
    files.folder.mkdir()
    for number in (10_001, 2, 1):
        files.path(number).touch()
    others = ("before-0003", ".after-0004", "after-x", "after-0005.json", "after-0006.1-0123abcd")
    for name in others:
        (files.folder / f"{name}.safetensors").touch()
    assert files.numbers() == [1, 2, 10_001]
    files.remove(but=(2, None))
    assert files.numbers() == [2]
    assert len(list(files.folder.iterdir())) == len(others) + 1
