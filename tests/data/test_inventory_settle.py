"""Duplicates, approvals, erasure and sides: what a site decided stays when data are added."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

import fake_looks
from feat_fed.config import RulesConfig, SiteDataConfig
from feat_fed.data import ClipRecord, Inventory, Manifest, records, scan, split_site
from feat_fed.data.inventory.again import MOST_ATTEMPTS
from feat_fed.data.inventory.decide import count_waiting, decide, note_paged
from feat_fed.data.inventory.duplicates import find_twins
from feat_fed.data.inventory.erase import (
    allow_again,
    erase_patient,
    find_patient,
    forget_left_behind,
    left_behind,
)
from feat_fed.data.inventory.look import Seen
from feat_fed.data.inventory.pool import TOO_SLOW
from feat_fed.data.inventory.settle import (
    DOUBTED,
    OTHER_PATIENT,
    REJECTED,
    SAME_CLIP,
    SAME_FILE,
)
from feat_fed.data.quality import bits_apart
from feat_fed.data.reading.clip import Source
from feat_fed.errors import DataError

RULES = RulesConfig(duplicate_bits=6)


def in_this_process(tasks: object, work: object, *, workers: int, limits: object) -> object:
    for task in tasks:  # type: ignore[attr-defined]
        yield task, work(*task.arguments)  # type: ignore[operator]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr("feat_fed.data.inventory.refresh.work_on", in_this_process)
    with Manifest(tmp_path / "store", alone="refuse") as manifest:
        yield manifest


def files(tmp_path: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = tmp_path / "data" / f"{name.replace('__', '/')}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "data"


def scanned(manifest: Manifest, folder: Path, rules: RulesConfig = RULES) -> Inventory:
    data = SiteDataConfig(paths=(folder,), rules=rules)
    return scan(data, manifest=manifest, look=fake_looks.look)


def names(inventory: Inventory) -> list[str]:
    return [clip.source[0].stem for clip in inventory.clips]


def print_of(*bits: int) -> str:
    value = sum(1 << bit for bit in bits)
    return f"{value:064x}"


def test_who_came_first_stays(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(tmp_path, p__m=f"one {print_of()}", p__n=f"two {print_of(*range(0, 100, 9))}")
    assert names(scanned(manifest, folder)) == ["m", "n"]
    near, far = print_of(0, 1, 2, 3, 4, 5), print_of(0, 1, 2, 3, 4, 5, 6)
    files(tmp_path, p__a=f"x {near}", p__b=f"one {print_of()}", p__c=f"y {far}")
    files(tmp_path, other__d=f"z {near}")
    found = scanned(manifest, folder)
    assert names(found) == ["c", "m", "n"]
    assert {each.path.stem: each.reason for each in found.excluded} == {
        "a": SAME_CLIP,
        "b": SAME_FILE,
        "d": OTHER_PATIENT,
    }
    (folder / "p" / "m.mp4").unlink()  # the first of those that are left takes its place
    found = scanned(manifest, folder)
    assert {"c", "n"} < set(names(found)) and len(found.clips) == 3 and found.looked == 0
    kept = names(found)
    files(tmp_path, p__m=f"one {print_of()}")
    assert names(scanned(manifest, folder)) == kept


def test_another_number_of_bits_compares_all_anew(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(
        tmp_path, p__a=f"x {print_of()}", p__b=f"y {print_of(1, 2)}", p__c="x " + print_of()
    )
    assert names(scanned(manifest, folder)) == ["a"]
    exact = RULES.model_copy(update={"duplicate_bits": None})
    assert names(scanned(manifest, folder, exact)) == ["a", "b"]
    assert names(scanned(manifest, folder, RULES.model_copy(update={"duplicate_bits": 1}))) == [
        "a",
        "b",
    ]
    assert names(scanned(manifest, folder)) == ["a"]


def record(number: int, fingerprint: str) -> ClipRecord:
    return ClipRecord(
        f"{number:064}", number, "s", "by", "p", fingerprint=fingerprint, sha256=str(number)
    )


def test_twins_are_those_of_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (12, 32), dtype=np.uint8)
    prints = []
    for _ in range(150):
        flips = np.packbits(rng.random((32, 8)) < 0.012, axis=1)[:, 0]
        prints.append((centres[rng.integers(12)] ^ flips).tobytes().hex())
    rows = [record(number, each) for number, each in enumerate(prints)]
    twins = find_twins(rows, bits=6)
    staying: list[ClipRecord] = []
    for row in rows:
        apart = [bits_apart(row.fingerprint or "", each.fingerprint or "") for each in staying]
        slow = min(apart, default=99) <= 6
        assert bool(twins[row.clip_id]) == slow
        if slow:
            assert twins[row.clip_id] == staying[int(np.argmin(apart))].clip_id
        else:
            staying.append(row)
    assert 12 <= len(staying) < 150
    again = [dataclasses.replace(row, twin=twins[row.clip_id]) for row in rows]
    assert find_twins(again, bits=6) == twins


def test_one_new_clip_among_many_is_cheap() -> None:
    prints = np.random.default_rng(0).bytes(32 * 20_000).hex()
    rows = [record(n, prints[64 * n : 64 * n + 64]) for n in range(20_000)]
    known = [dataclasses.replace(row, twin="") for row in rows]
    started = time.monotonic()
    twins = find_twins([*known, record(20_000, rows[7].fingerprint or "")], bits=6)
    assert time.monotonic() - started < 5
    assert twins[f"{20_000:064}"] == rows[7].clip_id


def test_nobody_trains_on_what_nobody_approved(tmp_path: Path, manifest: Manifest) -> None:
    words = {f"p__{n}": f"{n} {print_of(*range(i, 240, 3))} p text" for i, n in enumerate("abc")}
    folder = files(tmp_path, **words)
    found = scanned(manifest, folder)
    assert not found.clips and len(found.waiting) == 3
    with pytest.raises(DataError, match=r"3 that a person must approve.*data approve SITE.yaml"):
        found.require_clips()
    first, second, _ = (each.clip_id for each in found.waiting)
    assert decide(manifest, (first[:10].upper(),), "approved", RULES) == 1
    assert decide(manifest, (second,), "rejected", RULES) == 1
    found = scanned(manifest, folder)
    assert names(found) == ["a"] and len(found.waiting) == 1 and found.looked == 0
    assert [each.reason for each in found.excluded] == ["rejected by a person"]
    assert decide(manifest, (found.waiting[0].clip_id,), "approved", RULES) == 1
    assert decide(manifest, (second,), "approved", RULES) == 1
    assert names(scanned(manifest, folder)) == ["a", "b", "c"]
    kept = scanned(manifest, folder, RULES.model_copy(update={"overlays": "keep"}))
    assert len(kept.waiting) == 3  # with the marks on it is not what the person saw
    (folder / "p" / "a.mp4").rename(folder / "p" / "moved.mp4")
    assert "moved" in names(scanned(manifest, folder))  # what was approved is the content


def test_a_decision_needs_a_clip(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(tmp_path, p__a="x " + print_of(), p__b="x " + print_of())
    found = scanned(manifest, folder)
    with pytest.raises(DataError, match="'zz' is the beginning of 0 clips' ids"):
        decide(manifest, ("zz",), "approved", RULES)
    with pytest.raises(DataError, match=r"left out for another reason \(same content"):
        decide(manifest, (found.excluded[0].clip_id,), "approved", RULES)


def test_all_are_those_that_a_page_showed(tmp_path: Path, manifest: Manifest) -> None:
    files(tmp_path, p__a=f"1 {print_of(1)} p text", p__b=f"2 {print_of(*range(9, 99, 9))} p text")
    folder = tmp_path / "data"
    first, _ = scanned(manifest, folder).waiting
    with pytest.raises(DataError, match="2 clips await approval, and no page has shown them"):
        decide(manifest, (), "approved", RULES)
    note_paged(manifest, [first.clip_id], RULES)
    files(tmp_path, p__c=f"3 {print_of(*range(0, 250, 5))} p text")
    assert len(scanned(manifest, folder).waiting) == 3
    assert decide(manifest, (), "approved", RULES) == 1
    assert names(scanned(manifest, folder)) == ["a"] and count_waiting(manifest) == 2
    note_paged(manifest, [each.clip_id for each in scanned(manifest, folder).waiting], RULES)
    keep = RULES.model_copy(update={"overlays": "keep"})
    scanned(manifest, folder, keep)
    with pytest.raises(DataError, match="as they are now"):
        decide(manifest, (), "approved", keep)  # the page showed them masked
    assert decide(manifest, (), "approved", RULES) == 2


def test_a_look_that_failed_for_the_moment_is_repeated(tmp_path: Path, manifest: Manifest) -> None:
    reasons = {"a": "file cannot be opened", "b": TOO_SLOW, "c": "not a readable video"}
    data = SiteDataConfig(paths=(files(tmp_path, p__a="1", p__b="2", p__c="3"),), rules=RULES)

    def look(source: Source, role: str, rules: RulesConfig) -> Seen:
        return Seen(source, reason=reasons[source[0].stem])

    def looked(rescan: bool = False) -> int:
        return scan(data, manifest=manifest, look=look, rescan=rescan).looked

    assert looked() == 3
    assert [looked() for _ in range(MOST_ATTEMPTS)] == [2, 2, 2, 1]
    assert looked(rescan=True) == 3 and looked() == 1
    (tmp_path / "data" / "p" / "b.mp4").write_text("another")
    assert [looked() for _ in range(MOST_ATTEMPTS + 1)] == [2, 2, 2, 2, 1]
    assert len(scan(data, manifest=manifest, look=fake_looks.look).clips) == 1  # "a" is there now


def test_patients_keep_their_side(tmp_path: Path, manifest: Manifest) -> None:
    def sides(fraction: float = 0.2) -> dict[str, str]:
        found = scanned(manifest, tmp_path / "data", RulesConfig(duplicate_bits=None))
        split = split_site(found.clips, heldout_fraction=fraction, manifest=manifest)
        halves = (("train", split.train), ("heldout", split.heldout))
        return {clip.patient: side for side, clips in halves for clip in clips}

    files(tmp_path, p1__a="1")
    known = sides()
    assert list(known.values()) == ["train"]
    for count in range(2, 30):
        files(tmp_path, **{f"p{count}__a": str(count)})
        now = sides()
        assert {patient: now[patient] for patient in known} == known
        assert set(now.values()) == {"train", "heldout"}
        known = now
    assert list(sides(0.0).values()) == ["train"] * 29
    assert sides() == known


def test_erasing_leaves_nothing_but_a_refusal(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(tmp_path, anna__a="1", anna__b="2", berta__c="1", berta__d="3")
    files(tmp_path, anna__e="4 " + print_of(3) + " anna text")
    found = scanned(manifest, folder)
    decide(manifest, (found.waiting[0].clip_id,), "approved", RULES)
    split_site(found.clips, heldout_fraction=0.2, manifest=manifest)
    gone = folder / "anna" / "b.mp4"
    gone.unlink()
    scanned(manifest, folder)
    traces = find_patient(manifest, " anna ")
    assert (len(traces.clip_ids), len(traces.sha256s), traces.shared) == (2, 3, 1)
    theirs = {row.patient for row in records(manifest.store) if row.clip_id in traces.clip_ids}
    assert erase_patient(manifest, "anna") == 2
    alone = set(traces.sha256s) - {row.sha256 for row in records(manifest.store)}
    assert len(theirs) == 1 and len(alone) == 2
    for path in manifest.store.rglob("*"):
        content = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        for needle in (*traces.clip_ids, *alone, *theirs):
            assert needle.encode() not in content and bytes.fromhex(needle) not in content
    opened: list[str] = []

    def look(source: Source, role: str, rules: RulesConfig) -> Seen:
        opened.append(source[0].stem)
        return fake_looks.look(source, role, rules)

    data = SiteDataConfig(paths=(folder,), rules=RULES)
    after = scan(data, manifest=manifest, look=look)
    assert (after.refused, opened) == (2, [])
    assert names(after) == ["d"]
    assert [each.reason for each in after.waiting] == [DOUBTED]
    gone.write_text("2")  # a new file of the same patient: read once, and nothing of it kept
    assert scan(data, manifest=manifest, look=look).refused == 2
    assert scan(data, manifest=manifest, look=look).refused == 3
    assert opened == ["b"]
    assert {row.patient for row in records(manifest.store)}.isdisjoint(theirs)
    assert allow_again(manifest, "anna") and not allow_again(manifest, "anna")
    back = scan(data, manifest=manifest, look=look)
    assert back.refused == 0 and len(back.clips) + len(back.excluded) + len(back.waiting) == 5


def test_erasing_one_leaves_what_was_decided_on_another(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(tmp_path, anna__a="1 " + print_of(1), berta__b="1 " + print_of(1))
    (clip,) = scanned(manifest, folder).clips
    decide(manifest, (clip.clip_id,), "rejected", RULES)
    erase_patient(manifest, "anna")
    found = scanned(manifest, folder)
    assert [each.reason for each in found.excluded] == [REJECTED]
    assert not found.clips and not found.waiting
    erase_patient(manifest, "berta")
    for table in ("decisions", "contents", "clips", "doubted"):
        assert not manifest.select(f"SELECT * FROM {table}")


@pytest.mark.parametrize("erased", ["anna", "berta"])
def test_what_shows_the_same_as_an_erased_clip_waits(
    tmp_path: Path, manifest: Manifest, erased: str
) -> None:
    waived = RULES.model_copy(update={"review": "waived"})
    folder = files(tmp_path, anna__a=f"1 {print_of()} anna text")
    files(tmp_path, berta__b=f"2 {print_of(1)} berta text", dora__d=f"3 {print_of(2)} dora")
    files(tmp_path, dora__other=f"4 {print_of(*range(0, 200, 4))} dora")
    found = scanned(manifest, folder, waived)
    assert sorted(names(found)) == ["a", "other"]
    decide(manifest, tuple(clip.clip_id for clip in found.clips), "approved", waived)
    assert find_patient(manifest, erased).shared == 2
    erase_patient(manifest, erased)
    found = scanned(manifest, folder, waived)
    assert names(found) == ["other"] and [each.reason for each in found.waiting] == [DOUBTED]
    decide(manifest, (found.waiting[0].clip_id,), "approved", waived)
    assert len(scanned(manifest, folder, waived).clips) == 2
    other = {"anna": "dora", "berta": "anna"}[erased]
    assert allow_again(manifest, erased) and find_patient(manifest, other).clip_ids
    assert not manifest.select("SELECT * FROM doubted")


def test_latents_of_a_clip_that_turns_out_to_be_refused(tmp_path: Path, manifest: Manifest) -> None:
    folder = files(tmp_path, ward__x_P7="1", ward__y="2")
    (clip, _) = scanned(manifest, folder).clips
    erase_patient(manifest, "P7")
    assert left_behind(manifest) == ()
    data = SiteDataConfig(paths=(folder,), rules=RULES, patient_pattern=r"_(P\d)")
    after = scan(data, manifest=manifest, look=fake_looks.look)
    assert names(after) == ["y"]
    assert left_behind(manifest) == find_patient(manifest, "P7").sha256s == (clip.sha256,)
    forget_left_behind(manifest)
    assert left_behind(manifest) == ()
    assert clip.sha256 not in {row["sha256"] for row in manifest.select("SELECT * FROM contents")}
    assert len(manifest.select("SELECT * FROM contents")) == 1
