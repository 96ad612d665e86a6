from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStoreFactory

from feat_fed_server.whole_answers import WholeAnswers

RUN, SITE = 1, 7
PARTS = ("a" * 64, "b" * 64)


class State(WholeAnswers):
    """With one run and one site, which is connected."""

    def __init__(self) -> None:
        federations = SimpleNamespace(filter_nodes=lambda nodes, _: nodes)
        super().__init__(cast(Any, federations), ObjectStoreFactory().store())
        run = SimpleNamespace(run=SimpleNamespace(federation_id="one"))
        self.run_ids[RUN] = cast(Any, run)
        self.nodes[SITE] = NodeInfo(node_id=SITE, online_until=now().timestamp() + 1e6)

    def announce(self, answer: Message) -> str:
        """Take an announcement as the Fleet API does; return its upload."""
        tree = ObjectTree(
            object_id=answer.metadata.message_id,
            children=[ObjectTree(object_id=each) for each in PARTS],
        )
        reply_to = answer.metadata.reply_to_message_id
        self.message_res_store[answer.metadata.message_id] = answer
        self.message_ins_id_to_message_res_id[reply_to] = answer.metadata.message_id
        upload = self.start_session(RUN)
        self.preregister_object_tree(tree, upload)
        return upload

    def upload(self, upload: str, *parts: str) -> None:
        with self._lock_object_push_sessions:
            self._object_push_sessions[upload].pending_object_ids -= set(parts)
            if not self._object_push_sessions[upload].pending_object_ids:
                self._cleanup_push_session(upload, cleanup_messages=False)


@pytest.fixture
def state() -> State:
    return State()


def asked(state: State, ttl: float = 600.0) -> Message:
    message = Message(RecordDict(), dst_node_id=SITE, message_type="train", ttl=ttl)
    message.metadata.__dict__ |= {"_message_id": "c" * 64, "_run_id": RUN}
    state.message_ins_store["c" * 64] = message
    return message


def answered(message: Message) -> Message:
    answer = Message(RecordDict(), reply_to=message)
    answer.metadata.__dict__["_message_id"] = "d" * 64
    return answer


def test_an_answer_is_not_there_before_its_last_part_is(state: State) -> None:
    answer = answered(asked(state))
    upload = state.announce(answer)
    assert state.get_message_res({"c" * 64}, RUN) == []
    state.upload(upload, PARTS[0], "d" * 64)
    assert state.get_message_res({"c" * 64}, RUN) == []
    state.upload(upload, PARTS[1])
    assert state.get_message_res({"c" * 64}, RUN) == [answer]


def test_an_upload_that_has_ended_half_way_holds_its_answer_back_no_longer(state: State) -> None:
    answer = answered(asked(state))
    upload = state.announce(answer)
    state._object_push_sessions[upload].expires_at = now() - timedelta(seconds=1)
    # Whoever takes it finds a part missing, at once.
    assert state.get_message_res({"c" * 64}, RUN) == [answer]
    assert state.get_object(RUN, PARTS[0]) is None


def test_an_upload_that_goes_on_after_its_time_is_an_error(state: State) -> None:
    message = asked(state)
    state.announce(answered(message))
    message.metadata.__dict__["_created_at"] -= 601.0
    [told] = state.get_message_res({"c" * 64}, RUN)
    assert isinstance(told.error, Error)


def test_a_message_without_an_answer_is_waited_for(state: State) -> None:
    asked(state)
    assert state.get_message_res({"c" * 64}, RUN) == []
