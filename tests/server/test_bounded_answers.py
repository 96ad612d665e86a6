import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStoreFactory

from feat_fed_server.bounded_answers import BoundedAnswers, most_answer_bytes

RUN, SITE = 1, 7
MOST_BYTES = 5_000_000
PART = bytes(3_000_000)


class State(BoundedAnswers):
    """With one run, one site, and a question to it."""

    def __init__(self) -> None:
        federations = SimpleNamespace(filter_nodes=lambda nodes, _: nodes)
        store = ObjectStoreFactory().store()
        store.verify = False  # contents here are not what the names are hashes of
        super().__init__(cast(Any, federations), store, most_bytes=lambda: MOST_BYTES)
        run = SimpleNamespace(run=SimpleNamespace(federation_id="one"), status=None)
        self.run_ids[RUN] = cast(Any, run)
        self.nodes[SITE] = NodeInfo(node_id=SITE, online_until=now().timestamp() + 1e6)
        self.question = Message(RecordDict(), dst_node_id=SITE, message_type="train", ttl=600.0)
        self.question.metadata.__dict__ |= {"_message_id": "c" * 64, "_run_id": RUN}
        self.message_ins_store["c" * 64] = self.question

    def store_message_res(self, message: Message) -> str | None:
        """Keep an answer, for once without Flower's look at the life of the run."""
        self.message_res_store[message.metadata.message_id] = message
        return message.metadata.message_id

    def announce(self, *parts: str, root: str = "answer") -> tuple[bool, list[str], str]:
        answer = Message(RecordDict(), reply_to=self.question)
        answer.metadata.__dict__["_message_id"] = name("answer")
        children = [ObjectTree(object_id=name(each)) for each in parts]
        tree = ObjectTree(object_id=name(root), children=children)
        upload = self.start_session(RUN)
        return *self.store_message_and_object_tree(answer, tree, upload), upload

    @property
    def held_bytes(self) -> int:
        return sum(len(each.content) for each in cast(Any, self.object_store).store.values())


def name(of: str) -> str:
    return hashlib.sha256(of.encode()).hexdigest()


@pytest.fixture
def state() -> State:
    return State()


def test_an_answer_of_a_models_size_is_taken(state: State) -> None:
    stored, missing, upload = state.announce("first", "second")
    assert stored and set(missing) == {name(each) for each in ("answer", "first", "second")}
    for each in missing:
        assert state.store_object(RUN, upload, each, b"x" * 1_000_000)
    assert not state._object_push_sessions and not state._left
    assert state.get_object(RUN, name("first")) == b"x" * 1_000_000


def test_one_that_gets_larger_is_dropped_with_all_of_it(state: State) -> None:
    _, _, upload = state.announce("first", "second")
    assert state.store_object(RUN, upload, name("first"), PART)
    assert state.held_bytes == len(PART)
    assert not state.store_object(RUN, upload, name("second"), PART)
    assert state.held_bytes == 0 and not state._left
    assert name("answer") not in state.message_res_store


def test_one_that_is_announced_again_goes_on_with_what_it_had_left(state: State) -> None:
    _, _, upload = state.announce("first", "second")
    assert state.store_object(RUN, upload, name("first"), PART)
    stored, missing, again = state.announce("first", "second")
    assert stored and name("second") in missing
    assert not state.store_object(RUN, again, name("second"), PART)
    assert state.held_bytes == 0


def test_a_part_named_again_with_others_below_it_is_refused(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    twice = ObjectTree(object_id=name("twice"))
    deeper = ObjectTree(object_id=name("twice"), children=[ObjectTree(object_id=name("below"))])
    answer = Message(RecordDict(), reply_to=state.question)
    answer.metadata.__dict__["_message_id"] = name("answer")
    tree = ObjectTree(object_id=name("answer"), children=[twice, deeper])
    stored, _ = state.store_message_and_object_tree(answer, tree, state.start_session(RUN))
    assert not stored and "other parts below it" in caplog.text
    assert len(state.object_store) == 0


@pytest.mark.parametrize(("delivered_at", "left"), [("", 0), ("2026-11-22", 2)])
def test_what_nobody_will_ask_for_goes_with_its_question(
    state: State, delivered_at: str, left: int
) -> None:
    question = state.question.metadata.message_id
    state.preregister_object_tree(ObjectTree(object_id=question), state.start_session(RUN))
    state.announce("first")
    answer = state.message_res_store[name("answer")]
    answer.metadata.__dict__["_delivered_at"] = delivered_at
    state.message_ins_id_to_message_res_id[question] = name("answer")
    state.delete_messages({question})
    # An answer that was given out is yet to be pulled.
    assert len(state.object_store) == left


def test_other_parts_under_the_same_answer_are_refused(state: State) -> None:
    _, _, upload = state.announce("first")
    stored, missing, _ = state.announce("another")
    assert not stored and not missing
    assert name("another") not in state.object_store
    # The same again is what a site does whose announcement was cut off.
    stored, missing, again = state.announce("first")
    assert stored and name("first") in missing
    assert not state.store_object(RUN, upload, name("first"), PART)
    assert state.store_object(RUN, again, name("first"), PART)


@pytest.mark.parametrize(
    ("parts", "root", "says"),
    [
        (tuple(map(str, range(100))), "answer", "of over 68 parts"),
        (("first",), "question", "another message's"),
    ],
)
def test_an_announcement_that_is_out_of_bounds_leaves_nothing_behind(
    parts: tuple[str, ...],
    root: str,
    says: str,
    state: State,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored, _, upload = state.announce(*parts, root=root)
    assert not stored and says in caplog.text
    assert len(state.object_store) == 0 and not state._object_push_sessions
    assert not state.store_object(RUN, upload, name(parts[0]), PART)
    assert not state.store_object(RUN, "", name(parts[0]), PART)


def test_what_the_server_asks_has_no_bound(state: State) -> None:
    tree = ObjectTree(object_id=name("weights"))
    upload = state.start_session(RUN)
    assert state.preregister_object_tree(tree, upload)
    assert state.store_object(RUN, upload, name("weights"), bytes(2 * MOST_BYTES))


def test_the_bound_follows_from_the_runs_weights(tmp_path: Path) -> None:
    beside = most_answer_bytes(tmp_path)
    (tmp_path / "round-0000.safetensors").write_bytes(bytes(1000))
    (tmp_path / "ema-0000.safetensors").write_bytes(bytes(9000))
    assert most_answer_bytes(tmp_path) == beside + 2000
