"""How weights travel between the server and the sites."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel


class TransferConfig(StrictModel):
    """The form of weights, for each direction."""

    up: Literal["fp32", "bf16", "fp16", "int8", "topk"] = Field(
        "fp32",
        description="from a site: fp32 is exact; of the others, what a sending leaves out is added "
        "to the site's next (error feedback)",
    )
    down: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32", description="to the sites: fp32 is exact; every site starts from the same bytes"
    )
    topk_share: float = Field(
        0.01, gt=0, le=1, description="of each tensor's values: the largest, which `topk` sends"
    )
    delta: bool = Field(
        True,
        description="bf16 and fp16 are of the difference from what the other side has, and not of "
        "whole weights; int8 and topk always are, fp32 never is",
    )

    @model_validator(mode="after")
    def _share_is_of_topk(self) -> Self:
        default = type(self).model_fields["topk_share"].default
        if self.topk_share != default and self.up != "topk":
            raise ValueError(
                f"topk_share: {self.topk_share:g} goes with `up: topk` alone, and up is {self.up}"
            )
        return self

    @property
    def up_is_delta(self) -> bool:
        """Whether a site sends the difference from what it received."""
        return self._is_delta(self.up)

    @property
    def down_is_delta(self) -> bool:
        """Whether a site that has the last weights is sent the difference from them."""
        return self._is_delta(self.down)

    def _is_delta(self, form: str) -> bool:
        return form in ("int8", "topk") or (self.delta and form != "fp32")
