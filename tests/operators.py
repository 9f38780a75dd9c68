"""Which operators a net runs: two nets that run equal operators on equal shapes take equal time."""

from collections import Counter

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

FREE = {"aten::view", "aten::t", "aten::detach", "aten::_unsafe_view", "aten::alias"}  # no data moves


class Operators(TorchDispatchMode):
    """Counts the operators that run inside it, by name and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))
        if operator._schema.name not in FREE:
            self.counts[operator._schema.name, shapes] += 1
        return operator(*args, **(kwargs or {}))


def operators(net: nn.Module, x: torch.Tensor) -> Counter:
    """How often each (operator, shapes) runs in a forward pass of ``net`` on ``x`` in eval mode."""
    with Operators() as seen, torch.no_grad():
        net.eval()(x)
    return seen.counts
