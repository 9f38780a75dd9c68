"""Tails, neighbours, arrivals and cold starts: what they measure is what happened."""

import io
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from whichbackbone.measure import serving
from whichbackbone.measure.runtimes import Subject


def test_a_slow_call_in_a_hundred_is_the_tail_and_not_the_median():
    calls = iter(range(10**6))

    def call() -> None:
        time.sleep(0.02 if next(calls) % 50 == 49 else 0.0005)

    told = serving.quantiles(serving.alone(call, 150))
    assert told["p50"] < 5 and told["p99"] > 15 and list(told) == ["p50", "p90", "p99"]


def test_a_queue_is_seen_where_requests_do_not_wait_for_answers():
    usual = 4.0

    def call() -> None:
        time.sleep(usual / 1e3)

    calm, busy = (serving.quantiles(serving.open_loop(call, load, 120, usual)) for load in (0.1, 0.9))
    assert calm["p50"] < 2 * usual and busy["p90"] > 1.5 * calm["p90"], "waiting counts"
    with pytest.raises(ValueError, match="load 1.0: give a share between 0 and 1"):
        serving.open_loop(call, 1.0, 1, usual)


def test_a_neighbour_works_and_is_gone_afterwards():
    with serving.neighbour(2):
        time.sleep(0.3)
        children = psutil.Process().children()
        spent = [sum(child.cpu_times()[:2]) for child in children]
        assert len(children) == 2 and min(spent) > 0
    assert not psutil.Process().children()


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return Subject(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
                   torch.zeros(1, 3, 16, 16))  # fmt: skip


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "eager"])
def test_a_cold_start_tells_its_parts(tmp_path, monkeypatch, subject, runtime):
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    path = tmp_path / "net.pt2"
    if runtime == "eager":
        torch.export.save(torch.export.export(subject.model, (subject.x,)), path)
    told = serving.cold_start(runtime, str(path) if runtime == "eager" else subject.file.path, 16, 1)
    assert told.total_s == pytest.approx(told.import_s + told.load_s + told.first_s, rel=0.01)
    assert min(told.import_s, told.load_s, told.first_s) > 0 and 20 < told.rss_mb < 2000


def test_a_cold_start_that_fails_says_why(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="onnxruntime did not answer: .*"):
        serving.cold_start("onnxruntime", str(tmp_path / "bad.onnx"), 16, 1)


def test_the_whole_path_ends_at_the_classes_of_the_image():
    buffer = io.BytesIO()
    Image.fromarray(np.full((90, 120, 3), 128, np.uint8)).save(buffer, "JPEG")
    seen = []

    def infer(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return np.arange(10, dtype=np.float32)[None]

    rows = serving.whole_path(buffer.getvalue(), infer, 64, 3)
    assert list(rows) == ["decode", "resize", "normalise", "infer", "choose"]
    assert len(rows) == 3 and (rows > 0).all(None)
    assert seen[0].shape == (1, 3, 64, 64) and seen[0].dtype == np.float32
    grey = (128 / 255 - np.array(serving.MEAN)) / np.array(serving.STD)
    assert np.allclose(seen[0].mean((0, 2, 3)), grey, atol=0.02)
