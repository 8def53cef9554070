"""How much memory the tensors of a computation take at once."""

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


def peak_bytes(step: Callable[[], Iterable[Tensor] | None]) -> int:
    """Largest number of bytes that tensors made by ``step`` hold at one time.

    Counted are storages, from the operation that makes them to the moment when nothing refers to them, in forward
    and backward passes alike. Not counted is what existed before, what a kernel takes for itself within one operation,
    and what ``step`` returns: with the gradients of the parameters returned, what is left are activations. The
    resident size of a process would hold all of these, and what the allocator keeps.

    Args:
        step: The computation; the backward pass must run in its thread, as on a CPU.
    """
    with _Watch() as watch:
        returned = step()
    own = {id_ for id_ in map(watch.number, returned or ()) if id_ is not None}
    live = peak = 0
    for id_, size in watch.events:
        if id_ not in own:
            live += size
            peak = max(peak, live)
    return peak


class _Watch(TorchDispatchMode):
    """Keeps a list of the births (+ bytes) and deaths (- bytes) of storages, each with a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}  # address of the storage object -> number, while it lives
        self._births = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._born(leaf.untyped_storage())
        return result

    def number(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage; None if it was there before."""
        return self._numbers.get(tensor.untyped_storage()._cdata)

    def _born(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._numbers:
            return
        self._births += 1
        self._numbers[storage._cdata] = self._births
        self.events.append((self._births, storage.nbytes()))
        weakref.finalize(storage, self._died, storage._cdata, storage.nbytes())

    def _died(self, address: int, size: int) -> None:
        self.events.append((self._numbers.pop(address), -size))
