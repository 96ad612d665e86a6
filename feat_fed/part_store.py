"""Flower's store of parts in SuperLink and SuperNode, with their content in files.

What comes over the wire from the other side is verified by Flower's store before it becomes a file.
Apart from :mod:`feat_fed.parts`, for Flower's stores bring a database's libraries, which take a
second to import.
"""

from __future__ import annotations

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from feat_fed.parts import PartFolder


class PartStore(InMemoryObjectStore):
    """Flower's store in memory, in which the content of parts is in a folder.

    A part without content is one that the neighbour has put into the folder. That it is the part
    it is named after is the neighbour's word, which runs as the same user.
    """

    def __init__(self, folder: PartFolder, *, verify: bool = True) -> None:
        super().__init__(verify=verify)
        self._folder = folder

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Announce a message's parts; return which of them are missing.

        Raises
        ------
        ValueError
            If one is named with other parts below it than elsewhere (:func:`is_of_one_form`).
        """
        with self.lock_store:
            if not is_of_one_form(object_tree, self):
                raise ValueError("a part is named again with other parts below it")
            return super().preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store a part."""
        if object_content:
            super().put(object_id, object_content)
            in_file = self._folder.write(object_id, object_content)
        elif not (in_file := self._folder.has(object_id)):
            raise ValueError(f"part {object_id} is neither in the request nor in the folder")
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:  # it was deleted meanwhile
                self._folder.drop(object_id)
            elif in_file:
                entry.content, entry.is_available = b"", True

    def get(self, object_id: str) -> bytes | None:
        """Return a part's content; empty while it is on its way, None where there is no such."""
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:
                return None
            if entry.content or not entry.is_available:
                return entry.content
        return self._folder.read(object_id)

    def delete(self, object_id: str) -> None:
        """Delete a part and those below it that no other one names."""
        known = object_id in self
        super().delete(object_id)
        if known and object_id not in self:
            self._folder.drop(object_id)


def is_of_one_form(tree: ObjectTree, store: InMemoryObjectStore) -> bool:
    """Return whether each part has the same parts below it wherever it is named, and in the store.

    Flower 1.41 keeps those of the first time. What is below it elsewhere would be stored and never
    deleted; and a few parts that name each other twice are a tree of any size when it is read.
    """
    below: dict[str, list[str]] = {}
    for node in iterate_object_tree(tree):
        children = [each.object_id for each in node.children]
        held = store.store.get(node.object_id)
        if below.setdefault(node.object_id, children) != children:
            return False
        if held is not None and list(held.child_object_ids) != children:
            return False
    return True


def store_parts_in(folder: PartFolder | None) -> None:
    """Let the stores that Flower makes in this process keep parts in a folder, if there is one."""
    if folder is None:
        return

    def made() -> PartStore:
        return PartStore(folder)

    object_store_factory.InMemoryObjectStore = made  # type: ignore[attr-defined, assignment]
