"""``feat-fed check``: whether this site can take part, found out before anything starts."""

from feat_fed.findings import CheckResult, Finding
from feat_fed_client.check.result import CheckReport
from feat_fed_client.check.runner import CHECKS, Check, run_checks
from feat_fed_client.check.subject import Subject

__all__ = ["CHECKS", "Check", "CheckReport", "CheckResult", "Finding", "Subject", "run_checks"]
