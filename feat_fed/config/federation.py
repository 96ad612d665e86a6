"""The federation: who may take part and where the server is reached."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.site import Address
from feat_fed.config.study import Name


class FederationConfig(StrictModel):
    """The coordinator's list; certificates and keys lie beside the file.

    ``tls/ca.crt``, ``tls/ca.key``, ``tls/server.crt``, ``tls/server.key`` are made by
    ``feat-fed provision``; ``sites/NAME.pub`` comes from each hospital.
    """

    address: Address = Field(description="HOST:PORT that hospitals reach")
    sites: tuple[Name, ...] = Field(
        min_length=1, description="names of the hospitals that may take part"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for name in self.sites:
            if self.sites.count(name) > 1:
                raise ValueError(f"two sites are named {name!r}; give each hospital its own name")
        return self
