"""Figures for Prometheus: their form, and who gets them."""

import socket
import urllib.error
import urllib.request

import pytest

from feat_fed.errors import ConfigError
from feat_fed.metrics import Metric, exposition, served_metrics
from feat_fed.processes import free_port

METRICS = [
    Metric("x_bytes_total", "Moved.", "counter").add(3, site='a"b\\').add(4.5, site="c"),
    Metric("y", "Nothing of it.").add(None),
    Metric("z", "Plain.").add(0.25),
]

TEXT = r"""# HELP x_bytes_total Moved.
# TYPE x_bytes_total counter
x_bytes_total{site="a\"b\\"} 3
x_bytes_total{site="c"} 4.5
# HELP z Plain.
# TYPE z gauge
z 0.25
"""


def get(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_the_text_is_as_prometheus_wants_it() -> None:
    assert exposition(METRICS) == TEXT


def test_they_are_served_on_loopback_to_a_local_scraper_alone() -> None:
    with served_metrics(free_port(), lambda: METRICS) as url:
        assert url is not None and url.startswith("http://127.0.0.1:")
        assert get(url) == (200, TEXT)
        assert get(url.removesuffix("metrics"))[0] == 404
        assert get(url, host="rebound.example:80")[0] == 404
    with pytest.raises(urllib.error.URLError):
        get(url)


def test_figures_that_cannot_be_found_are_an_error_of_that_scrape_alone() -> None:
    def broken() -> list[Metric]:
        raise OSError("the run's folder is gone")

    with served_metrics(free_port(), broken) as url:
        assert url is not None
        assert get(url)[0] == 503
        assert get(url)[0] == 503


def test_off_by_default_and_a_port_in_use_is_said() -> None:
    with served_metrics(None, lambda: METRICS) as url:
        assert url is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"127.0.0.1:{port}"),
            served_metrics(port, lambda: METRICS),
        ):
            pass
