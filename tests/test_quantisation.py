"""What INT8 costs in accuracy: on nets and images whose truth is known."""

import numpy as np
import pytest
import torch
from torch import nn

from whichbackbone.experiments import quantisation


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Exports of these small nets go where nobody looks for them again."""
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()  # fmt: skip


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_wrong_calibration_costs_what_right_calibration_does_not(runtime):
    found = quantisation.compare(net(), runtime, images(12), {"right": images(8, 1), "wrong": 40 * images(8, 1)}, 1)
    rows = quantisation.told(found).groupby("calibrated").snr_db.median()
    assert rows["right"] > 20 and rows["wrong"] < rows["right"] - 4
    assert len(found["fp32"]) == 12 and found["fp32"].shape == found["right"].shape
    assert np.ptp(found["fp32"], axis=0).max() > 0, "each image its own output"


def test_rows_say_who_was_right():
    found = {"fp32": np.eye(3), "some": np.array([[1.0, 0, 0], [0.9, 1, 0], [1, 0, 0.5]])}
    rows = quantisation.told(found, np.array([0, 1, 2]))
    assert rows.agrees.tolist() == rows.right.tolist() == [True, True, False] and rows.right_fp32.all()
    assert rows.snr_db[0] == float("inf") and rows.snr_db[2] < 0


def test_a_probe_becomes_the_last_layer():
    data = images(60)
    labels = (data.mean((1, 2, 3)) > 0).long().numpy()
    data[labels == 1] += 1
    fitted = quantisation.with_probe(net(), data, labels, threads=1)
    with torch.no_grad():
        right = (fitted(data).argmax(1).numpy() == labels).mean()
    assert right > 0.95 and fitted[-1].out_features == 2 and isinstance(net()[-1], nn.Linear)
    with pytest.raises(ValueError, match="no linear layer"):
        quantisation.with_probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), data, labels, 1)
