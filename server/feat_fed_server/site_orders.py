"""What the coordinator has ordered about sites, in the run's folder; the round loop reads it.

One command at a time writes, the loop only reads, and each file is replaced whole, so that it
may be changed while the study runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.errors import RunError

ORDERS_FILE = "sites.json"


class SiteOrders(StrictModel):
    """Whom the coordinator keeps out, and which quarantines are lifted."""

    schema_version: Literal[1] = 1
    excluded: tuple[Name, ...] = ()
    readmitted: dict[Name, int] = Field(
        default_factory=dict, description="the round of the quarantine that was lifted"
    )

    @classmethod
    def read(cls, run: Path) -> Self:
        """Return a run's orders; none were given where there is no file.

        Raises
        ------
        RunError
            If the file is damaged: a site that was kept out must not slip in.
        """
        path = run / ORDERS_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            told = type(error).__name__
            raise RunError(
                f"{path} cannot be read ({told}): mend it, or remove it and exclude sites again"
            ) from None

    def write(self, run: Path) -> None:
        """Replace a run's orders."""
        write_bytes_atomically(run / ORDERS_FILE, self.model_dump_json(indent=1).encode() + b"\n")

    def excluding(self, site: str) -> Self:
        """Return the orders with one more site kept out."""
        return self.model_copy(update={"excluded": tuple(sorted({*self.excluded, site}))})

    def readmitting(self, site: str, *, quarantined_in: int | None) -> Self:
        """Return the orders with a site let in, whichever way it was kept out."""
        lifted = {} if quarantined_in is None else {site: quarantined_in}
        return self.model_copy(
            update={
                "excluded": tuple(each for each in self.excluded if each != site),
                "readmitted": self.readmitted | lifted,
            }
        )
