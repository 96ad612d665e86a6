"""What is done to weights between the sites and the global model."""

from feat_fed.federate.buckets import check_tensors, pack, unpack

__all__ = ["check_tensors", "pack", "unpack"]
