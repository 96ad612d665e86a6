from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from feat_fed.report import RunStore, SampleFiles, films, write_samples
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.films import films_by_round


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, beating_clips: np.ndarray) -> bytes:
    files = write_samples(tmp_path_factory.mktemp("film"), beating_clips[:2], fps=8)
    return files.mp4.read_bytes()


@pytest.fixture
def drawn(store: RunStore, film: bytes) -> EvaluationFolder:
    """Films of rounds 0, 2, ... 18."""
    folder = EvaluationFolder.of_run(store.root)
    for number in range(0, 20, 2):
        folder.samples(number).mkdir(parents=True)
        SampleFiles.under(folder.samples(number)).mp4.write_bytes(film)
    return folder


def test_the_first_the_last_and_some_in_between_are_shown(drawn: EvaluationFolder) -> None:
    found = films_by_round(drawn)
    assert [each.round for each in found.shown] == [0, 4, 8, 10, 14, 18]
    assert found.left_out == 4
    assert all(each.film.startswith("data:video/mp4;base64,") for each in found.shown)


def test_the_still_is_the_frame_in_the_middle(
    drawn: EvaluationFolder, beating_clips: np.ndarray
) -> None:
    still = films_by_round(drawn).shown[0].still
    image = Image.open(io.BytesIO(base64.b64decode(still.partition(",")[2])))
    second = np.asarray(image.convert("L"))[:128, 132:260].reshape(64, 2, 64, 2).mean((1, 3))
    errors = np.abs(second - beating_clips[1, :, :, :, 0]).mean((1, 2))
    assert errors.argmin() == 8


def test_fewer_are_shown_where_they_are_large(
    drawn: EvaluationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SampleFiles.under(drawn.samples(0)).mp4.stat().st_size
    monkeypatch.setattr(films, "LARGEST_BYTES", int(2.5 * size))
    assert [each.round for each in films_by_round(drawn).shown] == [0, 18]
    monkeypatch.setattr(films, "LARGEST_BYTES", size)
    assert [each.round for each in films_by_round(drawn).shown] == [18]
    monkeypatch.setattr(films, "LARGEST_BYTES", size - 1)
    assert films_by_round(drawn) == films.Films((), 10)


def test_a_damaged_film_is_left_out(drawn: EvaluationFolder) -> None:
    SampleFiles.under(drawn.samples(18)).mp4.write_bytes(b"no film")
    found = films_by_round(drawn)
    assert [each.round for each in found.shown] == [0, 4, 8, 10, 14]
    assert found.left_out == 5


def test_a_run_that_nothing_was_drawn_of_has_none(store: RunStore) -> None:
    assert films_by_round(EvaluationFolder.of_run(store.root)) == films.Films((), 0)
