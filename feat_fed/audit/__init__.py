"""What happened at a site or in a run, in a form that shows later changes."""

from feat_fed.audit.events import AuditEvent
from feat_fed.audit.line import Head, Line
from feat_fed.audit.log import FOLDER, AuditLog, ChainedLog, lines
from feat_fed.audit.verify import Noted, Verdict, verify

__all__ = [
    "FOLDER",
    "AuditEvent",
    "AuditLog",
    "ChainedLog",
    "Head",
    "Line",
    "Noted",
    "Verdict",
    "lines",
    "verify",
]
