"""Tasks of Flower's, as both roles' executors take them: warm processes that fork a child for each.

A task that was taken must be begun within 30 s, or Flower 1.41 gives it out again and this one's
token is void. On a busy machine Python takes longer than that to import torch, so whoever takes
tasks has imported all they need.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient

from feat_fed.child import be_child

_POLL_SEC = 0.2
_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


class TakenTask(NamedTuple):
    """A task, and the token that gives access to its messages."""

    kind: str
    token: str


def taken_tasks(address: str, secret: bytes, kinds: Iterable[TaskType]) -> Generator[TakenTask]:
    """Take tasks as they come, for ever; call it when all is imported.

    Parameters
    ----------
    address
        HOST:PORT of a SuperLink's or SuperNode's runtime API, which may not be there yet.
    secret
        Shared with it, so that no other local process can take its tasks.
    """
    client = _client(
        address,
        SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_ACQUIRE),
        retry=False,
    )
    request = AcquireTaskRequest(supported_task_types=[each.value for each in kinds])
    # Objects made so far stay out of collections, so children share their memory.
    gc.freeze()
    with contextlib.closing(client):
        while True:
            try:
                answer = client.AcquireTask(request)
            except httpx.TransportError:  # it is starting, or starting again
                answer = AcquireTaskResponse()
            if answer.HasField("task") and answer.token:
                yield TakenTask(answer.task.type, answer.token)
            time.sleep(_POLL_SEC)


def task_client(address: str, token: str) -> RuntimeHttpClient:
    """Return the client for one task's messages."""
    return _client(address, RuntimeTokenHttpInterceptor(token), retry=True)


def in_child(work: Callable[[], object]) -> str:
    """Do ``work`` in a fork and wait; return how it failed, or an empty text.

    The child ends with this process.
    """
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        be_child(parent_pid, work)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if code == 0 else f"signal {-code}" if code < 0 else f"exit status {code}"


def _client(
    address: str,
    authentication: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor,
    *,
    retry: bool,
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="feat-fed"),
            authentication,
        ],
        retry_invoker=make_simple_http_retry_invoker() if retry else None,
    )
