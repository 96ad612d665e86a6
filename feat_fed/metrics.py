"""Figures for Prometheus: its text exposition format 0.0.4, served on loopback alone.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from feat_fed.errors import ConfigError

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metric:
    """A figure and its samples: label values by name, and the number."""

    name: str
    help: str
    kind: Literal["gauge", "counter"] = "gauge"
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> Metric:
        """Add a sample, unless there is no number; return self."""
        if value is not None:
            self.samples.append((labels, value))
        return self


def exposition(metrics: Sequence[Metric]) -> str:
    """Return the metrics that have samples, as Prometheus reads them."""
    lines = []
    for metric in metrics:
        if metric.samples:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{_labels(labels)} {value!r}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def served_metrics(
    port: int | None, collect: Callable[[], Sequence[Metric]]
) -> Iterator[str | None]:
    """Answer GET /metrics on 127.0.0.1 in the block, from a thread; nothing where port is None.

    Yields
    ------
    str | None
        The URL.

    Raises
    ------
    ConfigError
        If the port cannot be listened on.
    """
    if port is None:
        yield None
        return
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(collect))
    except OSError as error:
        raise ConfigError(
            f"metrics cannot be served on 127.0.0.1:{port}: {error.strerror}; stop what uses it or "
            "choose another port"
        ) from error
    server.daemon_threads = True
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


def _handler(collect: Callable[[], Sequence[Metric]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            host = self.headers.get("host", "").rpartition(":")[0]
            # A page in a browser may name any host that its author has point here.
            if self.path != "/metrics" or host not in ("127.0.0.1", "localhost"):
                self.send_error(404)
                return
            try:
                body = exposition(collect()).encode()
            except Exception:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("content-type", _TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: whoever scrapes comes every few seconds."""

    return Handler


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
