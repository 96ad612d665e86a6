"""Bytes that a computation's operations read and write, by the sizes of their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count while it is active, forward and backward alike; the sum is in ``bytes``.

    Each operation reads its arguments and writes its results once. What only makes another
    view of the same memory, or memory with nothing in it, counts nothing. Caches are not
    known here, so this is what eager execution would move if none of it were kept.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run one operation and count it."""
        out = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(out)
        aliased = {_memory(each) for each in read} & {_memory(each) for each in written}
        only_views = aliased and not func._schema.is_mutable
        if not only_views and not func._schema.name.startswith("aten::empty"):
            self.bytes += sum(map(_bytes, [*read, *written]))
        return out


def bytes_moved(job: Callable[[], object]) -> int:
    """Return what :class:`Traffic` counts in one call of ``job``."""
    with Traffic() as traffic:
        job()
    return int(traffic.bytes)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _bytes(x: Tensor) -> int:
    # An expanded view has more elements than memory.
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
