"""Tasks are taken by whoever can begin them, and how a child ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType

from feat_fed.processes import free_port
from feat_fed.tasks import TakenTask, in_child, taken_tasks


def test_tasks_are_waited_for_where_nobody_listens_yet() -> None:
    port, answer = free_port(), AcquireTaskResponse(task=Task(type="flwr-serverapp"), token="t")
    asked: list[str] = []

    class Gives(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.SerializeToString() if len(asked) == 2 else b"")

        def log_message(self, *_: object) -> None:
            pass

    taken: list[TakenTask] = []
    tasks = taken_tasks(f"127.0.0.1:{port}", b"x" * 32, [TaskType.SERVER_APP])
    waiting = threading.Thread(target=lambda: taken.append(next(tasks)))
    waiting.start()
    time.sleep(0.5)
    assert not taken and waiting.is_alive()
    with HTTPServer(("127.0.0.1", port), Gives) as server:
        server.handle_request()  # nothing to do yet
        server.handle_request()
        waiting.join()
    tasks.close()
    assert taken == [TakenTask("flwr-serverapp", "t")]
    assert asked == ["/v1/runtime/acquire-task"] * 2


def test_the_server_has_imported_all_before_it_takes_a_task() -> None:
    """Flower gives a task out again that is not begun within 30 s; importing may take longer."""
    script = (
        "import feat_fed_server.executor, sys\n"
        "sys.exit(not {'torch', 'feat_fed_server.rounds', 'feat_fed.train'} <= set(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_how_a_child_ended_is_told() -> None:
    def fail() -> None:
        raise ValueError("its text stays in the log")

    assert in_child(lambda: None) == ""
    assert in_child(fail) == "exit status 1"
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "signal 9"
