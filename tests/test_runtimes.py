"""Every runtime computes what eager computes; one that does not, or that is not installed, is refused."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from whichbackbone.evidence import catalogue
from whichbackbone.measure import runtimes
from whichbackbone.measure.runtimes import WrongOutput, fold_batch_norm, prepare, quantised
from whichbackbone.measure.runtimes.exports import exported

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Exports of these small nets go where nobody looks for them again."""
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))


def net(seed: int = 0) -> nn.Module:
    """A small convolutional net whose batch norms have learnt something."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    model(3 * torch.randn(16, 3, 16, 16) + 1)
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return model


@pytest.mark.parametrize("runtime", runtimes.NAMES)
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_equals_eager(runtime, recwarn, capfd):
    model = net().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    prepared = prepare(model, X, runtime, threads=1)
    expected = model.eval()(X)
    torch.testing.assert_close(torch.as_tensor(prepared.run()), expected.detach(), rtol=1e-4, atol=1e-5)
    assert prepared.runtime == runtime and prepared.prepare_s > 0 and 0 <= prepared.max_difference < 1e-5
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items()), "the weights are untouched"
    assert all(p.is_contiguous() for p in model.parameters()), "and so is their layout"
    assert not recwarn.list and not capfd.readouterr().err


def test_every_runtime_is_in_the_catalogue():
    assert runtimes.NAMES == tuple(catalogue.RUNTIMES)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_says_what_to_install(monkeypatch, runtime):
    monkeypatch.setitem(sys.modules, runtime, None)  # how Python marks a module that cannot be imported
    with pytest.raises(ModuleNotFoundError, match=f"^{runtime} is not installed: pip install {runtime}$"):
        prepare(net(), X, runtime, 1)
    assert prepare(net(), X, "eager", 1).max_difference == 0, "and the others run"


def test_unknown_runtime_names_those_there_are():
    with pytest.raises(ValueError, match="unknown runtime 'tensorrt': choose one of eager, channels_last, comp"):
        prepare(net(), X, "tensorrt", 1)


@pytest.mark.parametrize("wrong", [lambda y: y + 0.01 * (y.max() - y.min()), lambda y: y * float("nan"), torch.flip])
def test_a_wrong_runtime_is_refused(monkeypatch, wrong):
    def prepare_wrong(model, x, threads):
        return lambda: torch.flip(model(x), [1]).detach() if wrong is torch.flip else wrong(model(x)).detach()

    monkeypatch.setitem(runtimes._FROM_MODEL, "channels_last", prepare_wrong)
    with pytest.raises(WrongOutput, match="channels_last differs from eager by"):
        prepare(net(), X, "channels_last", 1)


def test_threads_are_those_asked_for_and_set_back(monkeypatch):
    before, seen = torch.get_num_threads(), []

    def prepare_eager(model, x, threads):
        seen.append(torch.get_num_threads())
        return lambda: model(x).detach()

    monkeypatch.setitem(runtimes._FROM_MODEL, "eager", prepare_eager)
    wanted = 1 if before > 1 else 2
    prepare(net(), X, "eager", wanted)
    assert seen == [wanted] and torch.get_num_threads() == before


def test_the_ninth_model_of_a_class_is_compiled_too(monkeypatch):
    """Dynamo's limit of eight, lowered to two: left alone, it would run the third one eagerly and say nothing."""

    class Net(nn.Module):
        def __init__(self, depth: int):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return x

    def graphs_of(compile_one) -> int:
        torch.compiler.reset()
        count = [0]

        def backend(graph, _):
            count[0] += 1
            return graph.forward

        with monkeypatch.context() as patch, torch._dynamo.config.patch(recompile_limit=2):
            plain = torch.compile
            patch.setattr(torch, "compile", lambda f, **options: plain(f, backend=backend, **options))
            for depth in (1, 2, 3, 4):
                compile_one(Net(depth).eval())
        torch.compiler.reset()
        return count[0]

    x = torch.randn(2, 4)
    assert graphs_of(lambda model: torch.compile(model)(x)) == 2, "the fault that this test is about"
    assert graphs_of(lambda model: prepare(model, x, "compile", 1)) == 4


def test_a_constant_output_has_no_range_but_can_be_compared(monkeypatch):
    assert prepare(nn.Flatten(), torch.ones(1, 2), "eager", 1).max_difference == 0
    monkeypatch.setitem(runtimes._FROM_MODEL, "eager", lambda *_: lambda: torch.ones(1, 2) + 0.01)
    with pytest.raises(WrongOutput):
        prepare(nn.Flatten(), torch.ones(1, 2), "eager", 1)


def test_folding_leaves_no_norm_and_the_original_as_it_was():
    model = net().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    folded = fold_batch_norm(model, X)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(X), model(X), rtol=1e-4, atol=1e-5)
    assert isinstance(model[1], nn.BatchNorm2d) and not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_folding_keeps_a_norm_that_no_convolution_feeds():
    """Pre-activation: the first norm follows a ReLU, and only the second can be folded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(model[4].running_mean)
    folded = fold_batch_norm(model, X)
    assert [isinstance(m, nn.BatchNorm2d) for m in folded] == [False, True, False, False, False]
    torch.testing.assert_close(folded(X), model(X), rtol=1e-4, atol=1e-5)


def test_folding_that_would_change_the_function_is_refused():
    """Here a second reader takes the convolution's output before the norm."""

    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            nn.init.constant_(self.norm.running_mean, 2.0)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    with pytest.raises(WrongOutput, match="folded batch norm differs from eager"):
        fold_batch_norm(Forked(), X)


@pytest.mark.parametrize("name", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_a_compiler_that_is_switched_off_refuses(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    refused = runtimes.Subject(net(), X).try_to_prepare("compile", 1)
    assert refused == runtimes.Refused("compile", f"RuntimeError: torch.compile is switched off by {name}")


def test_a_runtime_that_is_missing_or_refuses_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    subject = runtimes.Subject(net(), X)
    assert subject.try_to_prepare("openvino", 1).reason.endswith("openvino is not installed: pip install openvino")
    assert isinstance(subject.try_to_prepare("eager", 1), runtimes.Prepared), "the others are measured all the same"
    with pytest.raises(ValueError, match="unknown runtime"):
        subject.try_to_prepare("tensorrt", 1)


def test_what_runtimes_share_is_made_once():
    subject = runtimes.Subject(net(), X)
    first, second = (subject.prepare(name, 1) for name in ("onnxruntime", "openvino"))
    assert first.export_s == second.export_s == subject.file.seconds > 0
    assert runtimes.Subject(subject.model, X).file.seconds == 0, "found again"


# ---------------------------------------------------------------------------------------------------- in fewer bits

CALIBRATION = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_is_near_eager_and_quantised_once(runtime, capfd):
    first = prepare(net(), X, runtime, 1, "int8", CALIBRATION)
    again = prepare(net(), X, runtime, 1, "int8", CALIBRATION)
    assert 20 < first.snr_db < 60 and first.max_difference < 0.2, "near, and not the same"
    assert first.export_s > 0 == again.export_s, "the file is found again"
    assert (torch.as_tensor(first.run()) == torch.as_tensor(again.run())).all()
    other = prepare(net(), X, runtime, 1, "int8", CALIBRATION * 3)
    assert other.export_s > 0 and other.snr_db < first.snr_db, "other images give other scales: too wide ones here"
    assert not capfd.readouterr().out, "the output of a block is read by a program"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_quantised_graph_that_lost_a_layer_is_refused(monkeypatch, runtime):
    tool, package, suffix = quantised._TOOLS[runtime]

    def careless(source, target, batches, few):
        smaller = exported(nn.Sequential(*net()[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), X)
        tool(smaller.path, target, batches, few)

    monkeypatch.setitem(quantised._TOOLS, runtime, (careless, package, suffix))
    with pytest.raises(WrongOutput, match="the quantised graph multiplies by 216 of the net's 328 weights"):
        prepare(net(), X, runtime, 1, "int8", CALIBRATION)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"", lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_damaged_file_is_made_again(runtime, damage):
    subject = runtimes.Subject(net(), X, CALIBRATION)
    before = subject.prepare(runtime, 1, "int8")
    for path in (Path(subject.file.path), Path(subject.quantised(runtime).path)):
        if path.suffix == ".xml":
            path = path.with_suffix(".bin")  # the weights
        path.write_bytes(damage(path.read_bytes()))
        after = runtimes.Subject(net(), X, CALIBRATION).prepare(runtime, 1, "int8")
        assert after.snr_db == before.snr_db
    assert after.export_s > 0


@pytest.mark.parametrize("missing, runtime", [("nncf", "openvino"), ("onnxruntime", "onnxruntime")])
def test_what_quantises_may_be_missing(monkeypatch, missing, runtime):
    monkeypatch.setitem(sys.modules, missing, None)
    refused = runtimes.Subject(net(), X, CALIBRATION).try_to_prepare(runtime, 1, "int8")
    assert refused.reason.endswith(f"{missing} is not installed: pip install {missing}")


def test_a_precision_that_a_runtime_lacks_is_named_with_those_it_has():
    with pytest.raises(ValueError, match="onnxruntime has no bf16 here: choose one of fp32, int8"):
        prepare(net(), X, "onnxruntime", 1, "bf16")


def test_bf16_without_its_instructions_is_refused(monkeypatch):
    openvino = pytest.importorskip("openvino")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert prepare(net(), X, "openvino", 1, "bf16").max_difference > 0
    else:  # OpenVINO would take the wish, and compute in fp32
        reason = runtimes.Subject(net(), X).try_to_prepare("openvino", 1, "bf16").reason
        assert reason == "RuntimeError: this processor has no instructions for bf16"
