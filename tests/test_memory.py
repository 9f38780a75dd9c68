"""Peak memory counts the tensors of a call once each, as long as they live, and nothing that was there before."""

import pytest
import torch
from torch import nn

from whichbackbone.measure.memory import forward_mb, peak_bytes

KB = 1000
OLD = torch.zeros(250)  # 1 kB, older than every call


def kilobytes(n: float = 1) -> torch.Tensor:
    return torch.zeros(int(250 * n))


def one_after_the_other() -> None:
    for _ in range(5):
        kilobytes(2)


def all_at_once() -> list[torch.Tensor]:
    return [kilobytes(2) for _ in range(5)]


def in_the_middle() -> torch.Tensor:
    big = [kilobytes(8), kilobytes(1)]
    del big[0]
    return big[0] + 1


CALLS = {
    "nothing": (lambda: None, 0),
    "one tensor": (kilobytes, 1),
    "freed before the next": (one_after_the_other, 2),
    "kept": (all_at_once, 10),
    "the peak is in the middle": (in_the_middle, 9),
    "views": (lambda: kilobytes(4).view(2, -1)[0].reshape(-1), 4),
    "a copy": (lambda: kilobytes(4).view(2, 500)[:, :250].contiguous(), 6),
    "in place": (lambda: kilobytes(3).add_(1).relu_(), 3),
    "out of place": (lambda: kilobytes(3) + 1, 6),
    "an input, its view and in place on it": (lambda: OLD.view(10, 25).add_(0), 0),
    "an old tensor resized by arithmetic": (lambda: OLD * 2, 1),
    "several outputs": (lambda: torch.zeros(3, 1000).max(0), 12 + 4 + 8),
}


@pytest.mark.parametrize(("call", "expected"), CALLS.values(), ids=CALLS)
def test_known_allocations(call, expected):
    assert peak_bytes(call) == expected * KB


def test_the_same_call_again_gives_the_same():
    kept = []
    assert [peak_bytes(lambda: kept.append(kilobytes(2))) for _ in range(3)] == [2 * KB] * 3


def test_inference_frees_what_training_must_keep():
    """Ten ReLUs in a row: inference holds two tensors at any time, training the saved output of each."""
    net, x = nn.Sequential(*[nn.ReLU() for _ in range(10)]), torch.randn(250)
    with torch.inference_mode():
        assert peak_bytes(lambda: net(x)) == 2 * KB
    x.requires_grad_()
    assert peak_bytes(lambda: net(x)) == 10 * KB


def test_a_training_step_holds_its_saved_tensors():
    """The peak of a step lies between the tensors saved for backward and those plus a few gradients."""
    net = nn.Sequential(*[m for _ in range(8) for m in (nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Sigmoid())])
    x = torch.randn(4, 8, 32, 32)
    parameters = sum(p.nbytes for p in net.parameters())
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(x).sum()
    held = sum(saved.values()) - x.nbytes - parameters  # both are older than the step
    assert held == 8 * x.nbytes, "the sigmoids' outputs: they are the inputs of the convolutions as well"

    def step():
        net.zero_grad(set_to_none=True)
        net(x).sum().backward()

    assert held <= peak_bytes(step) <= held + 4 * x.nbytes + parameters


def test_a_failing_call_leaves_nothing_behind():
    def fail():
        kilobytes(5)
        raise MemoryError

    with pytest.raises(MemoryError):
        peak_bytes(fail)
    assert peak_bytes(kilobytes) == KB


def test_a_forward_pass_holds_its_weights_and_its_largest_maps():
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)).eval()
    held = 4 * (3 * 8 + 4 * 8) + 8  # the batch norm's counter is one int64
    x = torch.rand(1, 3, 16, 16)
    assert forward_mb(net, x) * 1e6 == pytest.approx(held + 2 * 4 * 8 * 16 * 16)
    assert forward_mb(net, x.repeat(2, 1, 1, 1)) * 1e6 == pytest.approx(held + 2 * 2 * 4 * 8 * 16 * 16)
