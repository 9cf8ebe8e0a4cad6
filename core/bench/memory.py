"""Peak memory of a call: the allocator's own count on CUDA, live tensors elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that operators made and that are still alive.

    Storages from before are not counted. Scratch memory inside an operator (the blocks of a
    matrix product, of fused attention) never becomes a tensor and is not seen; it is the same for
    a pruned and an untouched model up to the length of the sequence.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not annotate it
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        operator: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        self._meet((args, kwargs), fresh=False)  # a view of an old tensor is not new memory
        result = operator(*args, **kwargs)
        self._meet(result, fresh=True)
        return result

    def _meet(self, tree: object, *, fresh: bool) -> None:
        """Count the storages of all tensors in a tree, if they are ``fresh``; each only once."""
        for leaf in tree_leaves(tree):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            key = id(storage)  # torch keeps one Python object per storage while it lives
            if key in self._known:
                continue
            self._known.add(key)
            size = storage.nbytes() if fresh else 0
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_tensor_bytes(call: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once that ``call`` made, its result included.

    What was there before (weights, inputs) is not counted. Slows the call down: do not time it.
    """
    counter = LiveBytes()
    with counter:
        call()
    return counter.peak


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Peak memory of ``call`` beyond what was allocated before it."""
    if device.type != "cuda":
        return peak_tensor_bytes(call)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak


MEASURES = {
    "cuda": "torch.cuda.max_memory_allocated",
    "cpu": "live tensor storages (scratch memory inside operators is not seen)",
}
