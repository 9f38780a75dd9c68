"""Peak memory of live tensors during a call: what the framework must hold, whatever more the allocator takes."""

import weakref
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Return the largest number of bytes that tensors created by ``call()`` hold at any moment of the call.

    Tensors that existed before (weights, inputs) do not count. On CUDA the caching allocator gives the figure, which
    includes kernel workspaces. On CPU and MPS it is the sum over live tensor storages, followed operator by operator:
    the same on every machine, without workspaces inside an operator.

    Args:
        call: takes no argument.
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _LiveStorages() as live:
        call()
    return live.peak


@torch.inference_mode()
def forward_mb(model: nn.Module, x: torch.Tensor) -> float:
    """Return the MB (1e6 bytes) of weights, buffers and live activations at the peak of a forward pass on ``x``."""
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    return (held + peak_bytes(lambda: model(x), x.device.type)) / 1e6


class _LiveStorages(TorchDispatchMode):
    """Add up live storages: each from when an operator first returns it until it is freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        # A storage that an operator receives was either seen before or is older than the call.
        for tensor in _tensors((args, kwargs)):
            self.known.setdefault(*self._entry(tensor, size=0))
        result = operator(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.now += storage.nbytes()
                self.known.setdefault(*self._entry(tensor, size=storage.nbytes()))
        self.peak = max(self.peak, self.now)
        return result

    def _entry(self, tensor: torch.Tensor, size: int) -> tuple[int, weakref.ref]:
        """Return the key of a tensor's storage, and a reference that subtracts ``size`` bytes when it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata

        def freed(_, key=key, size=size):
            self.now -= size
            self.known.pop(key, None)

        return key, weakref.ref(storage, freed)


def _tensors(tree: object) -> Iterator[torch.Tensor]:
    """Give each tensor of nested containers."""
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))
