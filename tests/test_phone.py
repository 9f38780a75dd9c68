"""Runtimes of phones: what is converted computes what eager computes, and what fails is a row with its reason."""

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.measure.runtimes import Subject, WrongOutput, phone

# 32 pixels: of 16, and 16 channels, MNN 3.6.1's mnnquant dies with a segmentation fault.
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CALIBRATION = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MODULES = {
    "litert": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "executorch": ("executorch", "torchao"),
    "ncnn": ("pnnx", "ncnn"), "mnn": ("_tools", "MNN"),
}  # fmt: skip
PAIRS = [(name, precision) for name, how in phone.RUNTIMES.items() for precision in how.precisions]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Converted nets go where nobody looks for them again."""
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))


def needed(runtime: str) -> None:
    if missing := [name for name in MODULES[runtime] if find_spec(name) is None]:
        pytest.skip(f"{runtime} lacks {', '.join(missing)}: pip install --no-deps -r requirements-phone.txt")


class Branch(nn.Module):
    """A residual branch that is most of the net, and whose last norm may be zero, as fresh nets of timm have it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.norm(self.conv1(x))).relu()
        return self.head(x.mean((2, 3)))


def net(zero: bool = False) -> nn.Module:
    model = checks.randomise(Branch())
    if zero:
        nn.init.zeros_(model.norm.weight)
    return model


def planted(monkeypatch, runtime: str, **changes) -> None:
    """Replace parts of how a net comes into a runtime."""
    monkeypatch.setitem(phone.RUNTIMES, runtime, phone.Runtime(**vars(phone.RUNTIMES[runtime]) | changes))


def stand_in(monkeypatch, answer=None) -> Subject:
    """ncnn's place taken by something that needs no package: the file is the weights, the answer eager's."""
    subject = Subject(net(), X, CALIBRATION)

    def convert(model, x, folder, images):
        (folder / "model.param").write_bytes(b"".join(t.detach().numpy().tobytes() for t in model.parameters()))

    def open_it(path, threads):
        return answer or (lambda x: subject.model(torch.from_numpy(x)).detach().numpy())

    planted(monkeypatch, "ncnn", convert=convert, open=open_it)
    return subject


# ------------------------------------------------------------------------------------------- with the runtimes, if any


@pytest.mark.parametrize("runtime, precision", PAIRS)
def test_a_net_survives(runtime, precision):
    needed(runtime)
    subject = Subject(net(), X, CALIBRATION)
    row = phone.survive(subject, runtime, precision, threads=2)
    assert tuple(row) == phone.COLUMNS and row["reason"] == "" and row["converts"] and row["threads"] == 2, row
    assert row["seconds"] > 0 and row["ms"] > 0
    weights = sum(p.numel() for p in subject.model.parameters() if p.dim() > 1)
    assert row["size_mb"] * 1e6 > weights * phone.BYTES[precision]
    if precision == "fp32":
        assert row["max_difference"] < 1e-5 and row["snr_db"] > 80
    else:
        assert 15 < row["snr_db"] < 60, "near, and not the same"
    again = phone.survive(subject, runtime, precision, threads=1)
    assert again["seconds"] == 0 and again["threads"] == 1, "found again"
    assert again["snr_db"] == pytest.approx(row["snr_db"], abs=10 if precision == "fp32" else 0.5)


@pytest.mark.parametrize("runtime", phone.NAMES)
def test_a_zero_norm_that_was_let_through_shows_or_stays(runtime, monkeypatch):
    """The fault that zeros are refused for: LiteRT removes the branch, and the file is too small for its weights."""
    needed(runtime)
    monkeypatch.setattr(phone, "_refuse_zeros", lambda model: None)
    row = phone.tried(Subject(net(zero=True), X), runtime)
    if runtime == "litert":
        assert "WrongOutput: litert's file has" in row["reason"] and not row["converts"]
    else:
        assert row["reason"] == "" or "weights alone" in row["reason"]


THREADS = """
import os, sys
import numpy as np
from whichbackbone.measure.runtimes import phone
runtime, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = np.ones((1, 3, 32, 32), np.float32)
answer = phone.RUNTIMES[runtime].open(path, 1)
answer(images)
before = len(os.listdir("/proc/self/task"))
answer = phone.RUNTIMES[runtime].open(path, threads)
for _ in range(3):
    answer(images)
print(len(os.listdir("/proc/self/task")) - before)
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
@pytest.mark.parametrize("runtime", phone.NAMES)
def test_a_runtime_gets_its_threads(runtime):
    needed(runtime)
    file = phone.converted(Subject(net(), X), runtime)

    def more(threads: int) -> int:
        path = os.pathsep.join([str(Path.cwd()), *sys.path])
        done = subprocess.run([sys.executable, "-c", THREADS, runtime, file.path, str(threads)], text=True, check=True,
                              stdout=subprocess.PIPE, env=os.environ | dict(PYTHONPATH=path))  # fmt: skip
        return int(done.stdout.splitlines()[-1])

    assert more(3) - more(1) == 2


@pytest.mark.parametrize("runtime", phone.NAMES)
def test_images_may_lie_in_memory_in_any_order(runtime):
    """ncnn reads numbers in the order in which they lie, and those of photographs lie channels last."""
    needed(runtime)
    subject = Subject(net(), X)
    answer = phone.RUNTIMES[runtime].open(phone.converted(subject, runtime).path, 1)
    strided = X.to(memory_format=torch.channels_last).numpy()
    assert not strided.flags.c_contiguous
    for images in (X.numpy(), strided):
        np.testing.assert_allclose(answer(images), subject.expected, rtol=1e-4, atol=1e-5)


def test_mnn_is_used_without_the_tools_that_install_packages(monkeypatch, tmp_path):
    needed("mnn")
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "bin" / "pip").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert phone.survive(Subject(net(), X, CALIBRATION), "mnn", "int8")["reason"] == ""
    assert not called.exists()


def test_a_tool_of_mnn_that_dies_is_a_reason(tmp_path):
    needed("mnn")
    with pytest.raises(RuntimeError, match="mnnconvert ended with"):
        phone._mnn_tool("mnnconvert", "-f", "ONNX", "--modelFile", str(tmp_path / "none.onnx"), "--MNNModel",
                        str(tmp_path / "none.mnn"), "--bizCode", "net")  # fmt: skip


# ------------------------------------------------------------------------------------------------- without any of them


def test_a_net_with_a_zero_norm_is_refused_before_it_is_converted():
    with pytest.raises(ValueError, match="the weights of norm are all zero, and a converter removes"):
        phone.converted(Subject(net(zero=True), X), "litert")


def test_a_file_that_lost_a_layer_is_refused(monkeypatch):
    subject = stand_in(monkeypatch)
    whole = phone.RUNTIMES["ncnn"].convert

    def careless(model, x, folder, images):
        model.conv1 = nn.Identity()
        whole(model, x, folder, images)

    planted(monkeypatch, "ncnn", convert=careless)
    monkeypatch.setattr(phone, "_expected", lambda model: 432 + 2304 + 80)
    with pytest.raises(WrongOutput, match="ncnn's file has 2,.* bytes, and the net's weights alone 11,264"):
        phone.converted(subject, "ncnn")
    assert not list((Path(os.environ["WHICHBACKBONE_CACHE"]) / phone.FOLDER).iterdir()), "nothing is left"


@pytest.mark.parametrize("wrong, reason", [
    (lambda x: np.zeros((1, 5), np.float32), "differs from eager by more than 1e-03"),
    (lambda x: np.full((1, 5), np.nan, np.float32), "differs from eager by more than 1e-03"),
    (lambda x: np.zeros((5,), np.float32), r"returns \(5,\) where eager returns \(1, 5\)"),
    (lambda x: 1 / 0, "ZeroDivisionError"),
])  # fmt: skip
def test_a_wrong_output_is_a_reason_and_has_no_time(monkeypatch, wrong, reason):
    row = phone.tried(stand_in(monkeypatch, wrong), "ncnn")
    assert row["converts"] and row["ms"] is None and re.search(reason, row["reason"]), row


def test_a_right_one_has_a_time_and_is_found_again(monkeypatch):
    subject = stand_in(monkeypatch)
    first, second = (phone.tried(subject, "ncnn", threads=1) for _ in range(2))
    assert first["reason"] == "" and first["ms"] > 0 and first["max_difference"] == 0
    assert first["seconds"] > 0 == second["seconds"]
    other = Subject(checks.randomise(Branch(), seed=1), X)
    assert phone.converted(other, "ncnn").seconds > 0, "other weights are another file"
    monkeypatch.setattr(phone, "_version", lambda package: "another")
    assert phone.converted(subject, "ncnn").seconds > 0, "and so are those of another converter"


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"", lambda data: b"x" + data[1:]])
def test_a_damaged_file_is_made_again(monkeypatch, damage):
    subject = stand_in(monkeypatch)
    path = Path(phone.converted(subject, "ncnn").path)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert phone.converted(subject, "ncnn").seconds > 0 and path.read_bytes() == before


class Unpickled:
    """Calls a function in the process that reads it."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


class Trap(nn.Module):
    """A net that does something to the process that opens it."""

    def __init__(self, function, *arguments):
        super().__init__()
        self.trap = Unpickled(function, *arguments)

    def __reduce__(self):
        return self.trap.what


@pytest.mark.parametrize("trap, reason", [
    (Trap(os.abort), "died of SIGABRT: "), (Trap(os._exit, 3), "ended with 3: it said nothing"),
    (Trap(time.sleep, 60), "was not done after 10 s"),
])  # fmt: skip
def test_a_crash_or_a_hang_is_a_row(trap, reason):
    start = time.perf_counter()
    row = phone.survive(Subject(trap, X), "ncnn", limit_s=10 if "10 s" in reason else 120)
    assert row["reason"].startswith(reason) and row["converts"] is False and row["ms"] is None, row
    assert tuple(row) == phone.COLUMNS and time.perf_counter() - start < 120
    json.dumps(row)


@pytest.mark.parametrize("runtime, module, package", [
    ("litert", "litert_torch", "litert-torch"), ("executorch", "executorch", "executorch"), ("ncnn", "pnnx", "pnnx"),
    ("mnn", "_tools", "MNN"),
])  # fmt: skip
def test_a_missing_package_is_a_reason(monkeypatch, runtime, module, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    row = phone.tried(Subject(net(), X), runtime)
    assert row["reason"].endswith(f"{package} is not installed: pip install {package}"), row


def test_what_is_not_there_is_named_with_what_is():
    with pytest.raises(ValueError, match="unknown runtime 'tflite': choose one of litert, executorch, ncnn, mnn"):
        phone.survive(Subject(net(), X), "tflite")
    with pytest.raises(ValueError, match="ncnn has no int8 here: choose one of fp32"):
        phone.survive(Subject(net(), X), "ncnn", "int8")
