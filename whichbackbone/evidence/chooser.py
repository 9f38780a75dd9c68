"""Which backbone? :func:`choose` ranks the nets of the study for a task, a device and its limits, and says why.

Every number carries its evidence: measured (the speed table of the machine that is named), published
(``data/published_*.csv``), or missing. Nothing is estimated: a net whose number is missing is listed, not ranked.
"""

import math
from dataclasses import dataclass

import pandas as pd

from whichbackbone.evidence import catalogue, intervals, published, speed, store
from whichbackbone.evidence import machine as this
from whichbackbone.evidence.catalogue import DENSE, TASKS

HARDWARE = ("cpu", "gpu", "phone")
MEASURING_MINUTES = 50
VALIDATION_IMAGES = 50_000  # of ImageNet, on which every top-1 here was taken

# What was published for each runtime of a GPU: the precision as the timm benchmark files have it.
GPU_DEVICE = "rtx4090_pt2.4"  # one card and one version of PyTorch: two would compare cards, not nets
GPU = {
    "eager": "amp, NCHW",
    "channels_last": "amp, channels_last (NHWC)",
    "compile": "amp, NCHW, torch.compile (dynamo)",
}
PHONES = ("pixel1", "pixel1_big_core", "pixel1_tflite")  # one phone, as different texts describe it
PHONE_SOURCES = ("howard2019_later", "sandler2018", "tan2018", "mnasnet_readme")  # of two times, the first one's counts
TIMM = "timm_results"
# Whose accuracies are not "the paper's own": ports and retrainings.
RETRAINED = (TIMM, "torchvision_0.29", "radosavovic2020", "pycls_zoo")
COLUMNS = ["rank", "name", "size", "top1", "ms", "low_ms", "high_ms", "how", "params_m", "memory_mb", "fits", "reason",
           "evidence"]  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What the net must do, where, and within which limits; None is no limit."""

    task: str
    hardware: str
    latency_ms: float | None
    batch: int
    memory_mb: float | None
    params_m: float | None
    pretrained: bool
    runtime: str | None
    threads: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """One clear line for each kind of nonsense."""
        for what, value, known in (("task", self.task, TASKS), ("hardware", self.hardware, HARDWARE)):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
        for what in ("latency_ms", "memory_mb", "params_m"):
            value = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{what} {value} is a limit that no net can keep: give a number above 0, or none")
        if self.batch < 1 or self.batch != int(self.batch):
            raise ValueError(f"batch {self.batch}: give a whole number of images, at least 1")
        if self.hardware != "cpu" and (self.threads or self.precision != "fp32"):
            raise ValueError(f"threads and precision are asked of the CPU: times on a {self.hardware} are published")
        if self.precision not in catalogue.PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}: choose one of {', '.join(catalogue.PRECISIONS)}")
        if self.threads < 0:
            raise ValueError(f"threads {self.threads}: give a whole number, or 0 for all cores")
        if self.runtime is not None and self.runtime not in self.runtimes():
            raise ValueError(
                f"no time of runtime {self.runtime!r} on {self.hardware}: choose one of {', '.join(self.runtimes())}"
            )
        if self.task == "transfer" and not self.pretrained:
            raise ValueError("transfer without pretrained weights is training from scratch: ask for classification")
        if self.hardware == "phone" and self.batch > 1:
            raise ValueError(f"batch {self.batch} on a phone: only single images were published; leave batch out")
        if self.task in DENSE and self.hardware != "cpu":
            raise ValueError(f"{self.task} is measured on the CPU alone (notebook 14): ask for hardware 'cpu'")
        if self.task in DENSE and (self.runtime not in (None, "eager") or self.batch > 1):
            raise ValueError(f"{self.task} is measured in eager mode at batch 1 alone: leave runtime and batch out")

    def runtimes(self) -> tuple[str, ...]:
        """Runtimes with a time on this hardware."""
        return {"cpu": tuple(catalogue.RUNTIMES), "gpu": tuple(GPU), "phone": ("tf-lite",)}[self.hardware]


def choose(
    task: str = "classification",
    hardware: str = "cpu",
    *,
    latency_ms: float | None = None,
    batch: int = 1,
    memory_mb: float | None = None,
    params_m: float | None = None,
    pretrained: bool = True,
    runtime: str | None = None,
    threads: int = 0,
    precision: str = "fp32",
    machine: str | None = None,
    output: str = "",
) -> pd.DataFrame:
    """Rank the nets of the study, the most accurate that fits first.

    Args:
        task: classification; transfer (fine-tuning on a small data set); detection or segmentation, which need feature
            maps of larger images.
        hardware: cpu (measured), gpu (published, images/s at large batches turned into ms an image), phone
            (published).
        latency_ms: longest time of an image; at batch 1 the latency, else the time of a batch over its images. The
            upper end of a measured interval has to keep it.
        batch: images at a time.
        memory_mb: most memory (1e6 bytes) of a forward pass at batch 1, weights included.
        params_m: most parameters, in millions.
        pretrained: rank by the best published ImageNet-1k weights; otherwise by accuracies of one recipe (100 epochs,
            RegNet's authors), since you will train it yourself.
        runtime: one of :data:`whichbackbone.evidence.catalogue.RUNTIMES`; None takes the fastest of those in which all
            nets were timed.
        threads: that the runtime may use on the CPU; 0 is all cores.
        precision: fp32; others where they were timed. In INT8 only nets with a published accuracy in INT8 are ranked.
        machine: whose measurements, a folder of data/results; None is this machine's.
        output: folder whose results come first.

    Returns:
        One row a net: rank (those that cannot be told apart share one; nan for what does not fit), name (timm's), size
        (pixels), top1 (%), ms, low_ms, high_ms (an image; 95 % interval, nan where published), how (it was timed),
        params_m, memory_mb, fits, reason (in words), evidence (behind top1, ms and memory). ``frame.attrs``:
        ``advice``, one paragraph; ``machine`` and ``run`` of the times, "" where they are published.

    Raises:
        ValueError: for an unknown task, hardware, runtime or machine, and for limits that make no sense.
        NotMeasured: when nothing was measured yet, naming what measures.
    """
    wish = Wish(task, hardware, latency_ms, batch, memory_mb, params_m, pretrained, runtime, threads, precision)
    if machine is not None and machine not in store.machines(output):
        raise ValueError(f"no results of a machine {machine!r}: there are {', '.join(store.machines(output))}")
    times = {"cpu": _cpu, "gpu": _gpu, "phone": _phone}[hardware](wish, output, machine)
    owner = times.attrs.get("machine", "")
    whose = "here" if owner == this.slug() else f"on {owner}"
    known = accuracy(pretrained, precision)
    if task in DENSE:  # the net sees other sizes there; what it learned, it learned on ImageNet at its own size
        known = known.drop_duplicates("name").drop(columns="size")
    frame = times.merge(known, how="left").merge(_sizes(), on="name", how="left")
    frame = frame.merge(_memory(output, machine), on=["name", "size"], how="left")
    frame["reason"] = [_reason(row, wish) for row in frame.itertuples()]
    frame["fits"] = frame.reason == ""
    frame = frame.sort_values(["fits", "top1", "ms"], ascending=[False, False, True], ignore_index=True)
    frame["rank"] = _ranks(frame)
    frame.loc[frame.fits, "reason"] = [_praise(row, frame) for row in frame[frame.fits].itertuples()]
    frame["evidence"] = [_evidence(row, whose) for row in frame.itertuples()]
    frame = frame[COLUMNS]
    frame.attrs |= {"machine": owner, "run": times.attrs.get("run", ""), "advice": _advice(frame, wish, times)}
    return frame


# ----------------------------------------------------------------------------------------------------------- evidence


def _cpu(wish: Wish, output: str, machine: str | None) -> pd.DataFrame:
    """name, size, ms, low_ms, high_ms of an image, how: from the speed table, in the fastest of the runtimes asked for.

    Without a runtime asked for, only runtimes that timed as many nets as any count, since a net that one runtime left
    out would seem slow beside those that it took. A net without a time has nan, and ``how`` says why.
    """
    if wish.task in DENSE:
        return _feature_maps(output, machine)
    table = speed.table(output, machine)
    every = table.points(batch=wish.batch, threads=wish.threads, precision=wish.precision, regime="hot",
                         mode="inference", device="cpu")  # fmt: skip
    rows = every[every.runtime.eq(wish.runtime)] if wish.runtime else every
    setting = f"{wish.runtime or 'any runtime'}, batch {wish.batch}, {wish.precision}, " + (
        f"{wish.threads} threads" if wish.threads else "all cores")  # fmt: skip
    if rows.empty:
        raise ValueError(f"nothing was timed in {setting} on {table.machine}: python -m whichbackbone measure --batch "
                         f"{wish.batch} --precision {wish.precision} --threads {wish.threads}")  # fmt: skip
    timed = rows.groupby("runtime").label.nunique()
    whole = timed[timed == timed.max()].index
    # A runtime that surely keeps the limit comes before one that is faster on average and may not.
    late = rows.high_ms / wish.batch > (wish.latency_ms or math.inf)
    best = rows.assign(late=late)[rows.runtime.isin(whole)].sort_values(["late", "ms"]).drop_duplicates("label")
    absent = [point for point in table.nets() if point.label not in set(best.label)]
    in_words = best.runtime.map(catalogue.RUNTIMES) + f", batch {wish.batch}"
    times = pd.concat([
        pd.DataFrame({"name": best.net, "size": best.pixels, "how": in_words,
                      **{of: best[of] / wish.batch for of in ("ms", "low_ms", "high_ms")}}),
        pd.DataFrame([dict(name=point.net, size=point.pixels, how=f"not timed in {setting}", ms=math.nan,
                           low_ms=math.nan, high_ms=math.nan) for point in absent]),
    ], ignore_index=True)  # fmt: skip
    times.attrs = {"machine": table.machine, "run": table.runs[-1]}
    return times


_TIMES = {"ms": "median_ms", "low_ms": "low_ms", "high_ms": "high_ms"}


def _feature_maps(output: str, machine: str | None) -> pd.DataFrame:
    """Times on this machine of feature maps at strides 4 to 32, at the smallest size that notebook 14 timed."""
    rows = store.latest("14_which_backbone", "features", output, machine)
    rows = rows[(rows.status == "ok") & (rows.pixels > 224)]
    rows = rows[rows.pixels == rows.pixels.min()]
    columns = {new: rows[old] for new, old in _TIMES.items()}
    times = pd.DataFrame({"name": rows.model, "size": rows.pixels, **columns, "how": "feature maps, eager, batch 1"})
    times.attrs = rows.attrs
    return times


def _gpu(wish: Wish, output: str, machine: str | None) -> pd.DataFrame:
    """Times on a GPU, from published images/s: for each net and size the fastest runtime that the wish allows."""
    rows = []
    for runtime, precision in GPU.items():
        if wish.runtime in (None, runtime):
            found = published.speed(device_id=GPU_DEVICE, precision=precision, kind="infer", unit="images/s")
            rows.append(found.assign(how=f"{published.device(GPU_DEVICE)}, {precision}, batch as published"))
    rows = pd.concat(rows).dropna(subset=["timm_name"])
    rows["ms"] = 1e3 / rows.images_per_s_or_ms
    best = rows.sort_values("ms").drop_duplicates(["timm_name", "img_size"])
    return _published_times(best)


def _phone(wish: Wish, output: str, machine: str | None) -> pd.DataFrame:
    """Times on a phone, from published latencies: for each net and size that of the newest text."""
    rows = published.speed(unit="ms", kind="infer", precision="float", device_id=PHONES, source_id=PHONE_SOURCES)
    rows = rows.dropna(subset=["timm_name", "img_size"]).assign(ms=rows.images_per_s_or_ms)
    best = rows.sort_values("source_id", key=lambda ids: ids.map(PHONE_SOURCES.index), kind="stable")
    best = best.drop_duplicates(["timm_name", "img_size"])
    return _published_times(best.assign(how=best.device_id.map(published.device) + ", float"))


def _published_times(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows.timm_name.map(catalogue.is_known)].reset_index(drop=True)
    return pd.DataFrame({"name": rows.timm_name, "size": rows.img_size.astype(int), "ms": rows.ms, "how": rows.how,
                         "low_ms": math.nan, "high_ms": math.nan})  # fmt: skip


def accuracy(pretrained: bool = True, precision: str = "fp32") -> pd.DataFrame:
    """name, size, top1 (%), of: the weights or the recipe behind it; see ``pretrained`` of :func:`choose`.

    In INT8 the best that was published of a net whose weights and activations have 8 bits and whose arithmetic was
    INT8's; a net without such a figure is not in the table. bf16 and mixed precision keep fp32's figures.
    """
    if precision == "int8":
        return _in_int8() if pretrained else pd.DataFrame(columns=["name", "size", "top1", "of"])
    rows = published.models().dropna(subset=["timm_name", "imagenet_top1", "input_size"])
    if pretrained:
        timm = rows[rows.source_id.eq(TIMM) & rows.extra_data.eq("no")]
        paper = rows[~rows.source_id.isin(RETRAINED) & rows.crops.eq("one")]
        # What can be downloaded comes first; a phone net that timm has no weights of keeps its paper's figure.
        rows = pd.concat([timm, paper[~paper.timm_name.isin(timm.timm_name)]])
    else:
        rows = rows[rows.source_id.eq("radosavovic2020") & rows.recipe_id.eq("100ep")]
    rows = rows.sort_values("imagenet_top1", ascending=False).drop_duplicates(["timm_name", "input_size"])
    of = rows.source_id.map(published.source).mask(rows.source_id.eq(TIMM), rows.recipe_id.str.removeprefix("timm:"))
    size = rows.input_size.astype(int)
    frame = pd.DataFrame({"name": rows.timm_name, "size": size, "top1": rows.imagenet_top1, "of": of})
    # TensorFlow's weights (tf_) need its padding: their accuracy is not that of a net without it.
    return frame.drop_duplicates(["name", "size"])


def _in_int8() -> pd.DataFrame:
    rows = published.int8(deployed="yes").dropna(subset=["top1_fp32", "input_size"])
    rows = rows.sort_values("top1_int8", ascending=False).drop_duplicates(["timm_name", "input_size"])
    of = rows.source_id.map(published.source) + ", " + rows.method
    return pd.DataFrame({"name": rows.timm_name, "size": rows.input_size.astype(int), "top1": rows.top1_int8, "of": of})


def _sizes() -> pd.DataFrame:
    rows = published.models().dropna(subset=["timm_name", "params_m"])
    rows = pd.concat([rows[rows.source_id.eq(TIMM)], rows])
    names = rows.timm_name.str.removeprefix("tf_")
    return (
        pd.concat([rows, rows.assign(timm_name=names)])
        .drop_duplicates("timm_name")
        .rename(columns={"timm_name": "name"})[["name", "params_m"]]
    )


def _memory(output: str, machine: str | None) -> pd.DataFrame:
    """name, size, memory_mb: of one forward pass at batch 1, where notebook 09 counted it."""
    try:
        rows = store.latest("09_speed_critique", "memory", output, machine)
    except FileNotFoundError:
        return pd.DataFrame({"name": pd.Series(dtype=str), "size": pd.Series(dtype=int), "memory_mb": math.nan})
    return pd.DataFrame({"name": rows["name"], "size": rows["size"], "memory_mb": rows.forward_mb})


# ------------------------------------------------------------------------------------------------------------ verdicts


def _reason(row, wish: Wish) -> str:
    """Why a net cannot be recommended; "" if nothing speaks against it."""
    if math.isnan(row.top1):
        if wish.precision == "int8":
            return "accuracy in INT8 unknown: not ranked"
        kind = "published accuracy at this size" if wish.pretrained else "accuracy with one recipe"
        return f"no {kind}: not ranked"
    if math.isnan(row.ms):
        asked = f"--nets {row.name} --batch {wish.batch}" + (
            f" --precision {wish.precision}" if wish.precision != "fp32" else "")  # fmt: skip
        return f"{row.how}: not ranked; python -m whichbackbone measure {asked}"
    limits = {"ms": wish.latency_ms, "M parameters": wish.params_m, "MB": wish.memory_mb}
    for what, (unit, limit) in zip(("ms", "params_m", "memory_mb"), limits.items(), strict=True):
        value = getattr(row, what)
        if what == "ms" and limit is not None and value <= limit < row.high_ms:
            return f"{value:.3g} ms, but its interval ends at {row.high_ms:.3g}, over {limit:g}"
        if limit is not None and math.isnan(value):
            return f"{what} missing: cannot be promised to stay under {limit:g} {unit}"
        if limit is not None and value > limit:
            return f"{value:.3g} {unit}, over {limit:g}"
    return ""


def _ranks(frame: pd.DataFrame) -> list[float]:
    """1, 2, ...: a net shares the rank of the one before it when neither accuracy nor time tells them apart."""
    ranks, leader = [], None
    for place, row in enumerate(frame.itertuples(), start=1):
        if not row.fits:
            ranks.append(math.nan)
            continue
        noise = intervals.test_set_noise(leader.top1, VALIDATION_IMAGES) if leader else 0
        tied = leader is not None and leader.top1 - row.top1 <= noise and _same_time(leader, row)
        ranks.append(ranks[-1] if tied else float(place))
        leader = leader if tied else row
    return ranks


def _same_time(a, b) -> bool:
    """Whether the intervals of two times overlap; published times have none, and differ when their figures do."""
    low_a, high_a, low_b, high_b = (
        x.ms if math.isnan(bound) else bound
        for x, bound in ((a, a.low_ms), (a, a.high_ms), (b, b.low_ms), (b, b.high_ms))
    )
    return low_a <= high_b and low_b <= high_a


def _praise(row, frame: pd.DataFrame) -> str:
    """What speaks for a net that fits."""
    better = frame[frame.fits & (frame.ms < row.ms) & (frame.top1 >= row.top1)]
    tied = [name for name, rank in zip(frame.name, frame["rank"], strict=True) if rank == row.rank and name != row.name]
    words = [f"{better.name.iloc[0]} is faster and no less accurate" if len(better) else "no faster one is as accurate"]
    if tied:
        words.append(f"cannot be told apart from {', '.join(tied)}")
    return "; ".join(words)


def _evidence(row, whose: str) -> str:
    """What stands behind top1, ms and memory; ``whose`` measured the time."""
    time = (
        "ms missing"
        if math.isnan(row.ms)
        else (f"ms {'published' if math.isnan(row.low_ms) else f'measured {whose}'} ({row.how})")
    )
    top1 = "top1 missing" if math.isnan(row.top1) else f"top1 published ({row.of})"
    return f"{top1}; {time}; memory {'missing' if math.isnan(row.memory_mb) else 'counted, batch 1'}"


def _advice(frame: pd.DataFrame, wish: Wish, times: pd.DataFrame) -> str:
    fits = frame[frame.fits]
    if fits.empty:
        fastest = times.loc[times.ms.idxmin()]
        return (
            f"Nothing fits. The fastest net with a time is {fastest['name']}, {fastest.ms:.3g} ms: "
            "loosen a limit, take another runtime, or other hardware."
        )
    first = fits[fits["rank"] == fits["rank"].iloc[0]]
    names = " or ".join(f"{x.name} at {x.size} px ({x.top1:.1f} %, {x.ms:.3g} ms)" for x in first.itertuples())
    text = f"Take {names}: the most accurate of {len(fits)} that fit, {len(frame) - len(fits)} do not."
    if len(first) > 1:
        text += " These cannot be told apart by what is known."
    if wish.precision == "int8":
        unknown = frame[frame.top1.isna() & frame.ms.notna()]
        text += f" Of {len(unknown)} nets with a time in INT8 the accuracy in INT8 is unknown; they are not ranked."
    elif wish.precision != "fp32":
        text += f" Accuracies are those of fp32: {catalogue.PRECISIONS[wish.precision]} was timed, not scored."
    if wish.task == "transfer":
        text += " ImageNet accuracy stands in for transfer: notebook 08 shows how far it carries on a small data set."
    if wish.task in DENSE:
        text += f" Times are of feature maps at {first['size'].iloc[0]} px; accuracy on {wish.task} was not measured."
    if owner := times.attrs.get("machine"):
        day = f"{times.attrs['run'][:4]}-{times.attrs['run'][4:6]}-{times.attrs['run'][6:8]}"
        text += f" Times were measured on {owner}, {day}"
        text += "." if owner == this.slug() else (
            ", not on this machine, which has measured nothing: python -m whichbackbone measure takes about "
            f"{MEASURING_MINUTES} minutes on two cores.")  # fmt: skip
    if wish.hardware == "gpu":
        text += " Times are published throughputs at large batches; latency at batch 1 was not published."
    return text
