"""Parts as files: what one process leaves the other finds, and nothing else is changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from flwr.app import RecordDict
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory, object_store_factory

from feat_fed.part_store import PartStore, store_parts_in
from feat_fed.parts import PARTS_FOLDER, PartFolder, share_parts
from feat_fed.wire import weights_record

BODY = os.urandom(200_000)
RUN = 7


def part(body: bytes) -> tuple[str, bytes]:
    """Return a part as Flower makes it, and its id."""
    content = b"ArrayChunk  %d\x00" % len(body) + body
    return hashlib.sha256(content).hexdigest(), content


@pytest.fixture
def folder(tmp_path: Path) -> PartFolder:
    made = PartFolder(tmp_path / "parts")
    made.empty()
    return made


@pytest.fixture
def store(folder: PartFolder) -> PartStore:
    return PartStore(folder)


def files(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in (tmp_path / "parts").iterdir())


def test_a_part_is_a_file_and_not_in_memory(store: PartStore, tmp_path: Path) -> None:
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    assert store.get(name) == b""
    store.put(name, content)
    assert files(tmp_path) == [name]
    assert store.store[name].content == b""
    assert store.get(name) == content


def test_one_that_is_not_what_it_is_named_after_is_refused(
    store: PartStore, tmp_path: Path
) -> None:
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    with pytest.raises(ValueError, match="does not match"):
        store.put(name, content[:-1] + b"!")
    assert files(tmp_path) == []
    assert store.get(name) == b""


def test_nothing_is_stored_of_what_nobody_left(store: PartStore) -> None:
    name, _ = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    with pytest.raises(ValueError, match="neither"):
        store.put(name, b"")
    assert store.get(name) == b""


def test_a_part_nobody_announced_is_unknown(store: PartStore) -> None:
    assert store.get(part(BODY)[0]) is None


def test_a_file_goes_with_the_last_that_names_it(store: PartStore, tmp_path: Path) -> None:
    name, content = part(BODY)
    tops = ["a" * 64, "b" * 64]
    for top in tops:
        tree = ObjectTree(object_id=top, children=[ObjectTree(object_id=name)])
        store.preregister(RUN, tree)
    store.put(name, content)
    store.delete(tops[0])
    assert files(tmp_path) == [name]
    store.delete(tops[1])
    assert files(tmp_path) == []


def test_a_runs_end_takes_its_files(store: PartStore, tmp_path: Path) -> None:
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    store.put(name, content)
    store.delete_objects_in_run(RUN)
    assert files(tmp_path) == []


def test_a_part_stays_in_memory_where_no_file_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = PartFolder(tmp_path / "file" / "parts")
    folder.empty()
    store = PartStore(folder)
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    store.put(name, content)
    assert store.get(name) == content


@pytest.mark.parametrize("name", ["../" * 10 + "etc/passwd", "x" * 64, "A" * 64, "0x" + "1" * 62])
def test_only_an_id_is_a_files_name(folder: PartFolder, name: str) -> None:
    assert not folder.write(name, BODY)
    assert not folder.has(name)
    assert folder.read(name) is None
    folder.drop(name)


def tree(name: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=name * 64, children=children)


@pytest.mark.parametrize(
    "announced",
    [
        tree("a", tree("b"), tree("b", tree("c"))),
        tree("a", tree("b", tree("c")), tree("d", tree("b"))),
    ],
)
def test_a_part_named_again_with_others_below_it_is_refused(
    store: PartStore, announced: ObjectTree
) -> None:
    with pytest.raises(ValueError, match="named again"):
        store.preregister(RUN, announced)
    assert len(store) == 0


def test_nor_may_it_differ_from_what_is_there(store: PartStore) -> None:
    store.preregister(RUN, tree("a", tree("b")))
    with pytest.raises(ValueError, match="named again"):
        store.preregister(RUN, tree("d", tree("b", tree("c"))))
    store.preregister(RUN, tree("d", tree("b")))
    for name in "da":
        store.delete(name * 64)
    assert len(store) == 0


def test_a_part_deleted_while_it_is_written_leaves_no_file(
    store: PartStore, folder: PartFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    write = folder.write

    def deleted_meanwhile(object_id: str, content: bytes) -> bool:
        store.delete(object_id)
        return write(object_id, content)

    monkeypatch.setattr(folder, "write", deleted_meanwhile)
    store.put(name, content)
    assert files(tmp_path) == []
    assert store.get(name) is None


class Neighbour:
    """The Runtime API's other end, with a store of its own."""

    def __init__(self, store: PartStore) -> None:
        self.store = store
        self.came: list[int] = []

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        content = self.store.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None,
            object_available=bool(content),
            object_content=content,
        )

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:
        self.came.append(len(request.object_content))
        self.store.put(request.object_id, request.object_content)
        return PushObjectResponse(stored=True)


@pytest.mark.parametrize("body", [BODY, b"small"])
def test_what_a_client_pushes_is_in_the_neighbours_store(
    store: PartStore, folder: PartFolder, body: bytes
) -> None:
    name, content = part(body)
    store.preregister(RUN, ObjectTree(object_id=name))
    client = Neighbour(store)
    share_parts(client, folder)
    request = PushObjectRequest(object_id=name, object_content=content)
    assert client.PushObject(request).stored
    assert client.came == [0]
    assert store.get(name) == content


@pytest.mark.parametrize("body", [BODY, b"small"])
def test_what_the_neighbour_holds_is_pulled(
    store: PartStore, folder: PartFolder, body: bytes
) -> None:
    name, content = part(body)
    client = Neighbour(store)
    share_parts(client, folder)
    assert not client.PullObject(PullObjectRequest(object_id=name)).object_found
    store.preregister(RUN, ObjectTree(object_id=name))
    assert not client.PullObject(PullObjectRequest(object_id=name)).object_available
    store.put(name, content)
    found = client.PullObject(PullObjectRequest(object_id=name))
    assert (found.object_found, found.object_available) == (True, True)
    assert found.object_content == content


def test_flowers_factory_makes_such_a_store(
    folder: PartFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "InMemoryObjectStore"
    monkeypatch.setattr(object_store_factory, name, getattr(object_store_factory, name))
    store_parts_in(folder)
    assert isinstance(ObjectStoreFactory().store(), PartStore)


def test_all_parts_of_a_message_are_files(store: PartStore, tmp_path: Path) -> None:
    content = RecordDict({"arrays": weights_record([BODY, b"small"])})
    store.preregister(RUN, get_object_tree(content))
    for name, each in get_all_nested_objects(content).items():
        store.put(name, each.deflate())
    assert files(tmp_path) == sorted(get_all_nested_objects(content))


def test_what_cannot_be_written_is_pushed_over_the_wire(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = PartFolder(tmp_path / "file" / "parts")
    store = PartStore(nowhere)
    client = Neighbour(store)
    share_parts(client, nowhere)
    name, content = part(BODY)
    store.preregister(RUN, ObjectTree(object_id=name))
    request = PushObjectRequest(object_id=name, object_content=content)
    assert client.PushObject(request).stored
    assert client.came == [len(content)]
    assert client.PullObject(PullObjectRequest(object_id=name)).object_content == content


def test_the_folder_is_empty_at_first_and_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ("a" * 64)).write_bytes(BODY)
    with PartFolder(tmp_path / "parts") as folder:
        assert files(tmp_path) == []
        assert (tmp_path / "parts").stat().st_mode & 0o077 == 0
        monkeypatch.setenv(PARTS_FOLDER, folder.environment[PARTS_FOLDER])
        shared = PartFolder.of_environment()
        assert shared is not None
        name, content = part(BODY)
        assert shared.write(name, content)
        assert folder.read(name) == content
    assert not (tmp_path / "parts").exists()


def test_without_a_folder_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARTS_FOLDER, raising=False)
    assert PartFolder.of_environment() is None
