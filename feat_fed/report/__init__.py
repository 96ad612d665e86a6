"""The run's folder and what people read of it.

The round loop needs the store only, so drawing (matplotlib, PyAV) is imported when
it is asked for.
"""

from typing import TYPE_CHECKING, Any

from feat_fed.report.records import RoundRecord, RunSummary, SiteRound, SiteStatus
from feat_fed.report.run_store import RunStore, SampleFiles

if TYPE_CHECKING:
    from feat_fed.report.html import write_report
    from feat_fed.report.samples import write_samples

__all__ = [
    "RoundRecord",
    "RunStore",
    "RunSummary",
    "SampleFiles",
    "SiteRound",
    "SiteStatus",
    "write_report",
    "write_samples",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "write_report":
        from feat_fed.report.html import write_report

        return write_report
    if name == "write_samples":
        from feat_fed.report.samples import write_samples

        return write_samples
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
