"""What INT8 costs in accuracy: the same net in fp32 and in INT8, on the same images."""

import copy
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from whichbackbone.measure.runtimes import Subject, signal_to_noise
from whichbackbone.measure.runtimes.onnx import OPENERS

PROBE_C = 0.01  # strength of the probe's prior: that which 08 finds best for pooled features


def outputs(path: str, runtime: str, images: Tensor, threads: int) -> np.ndarray:
    """What a file gives for each image, (n, classes).

    Args:
        path: of a file for images one at a time.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        images: (n, channels, height, width), as the net expects them.
        threads: of the runtime.
    """
    answer = OPENERS[runtime](path, threads)
    return np.concatenate([answer(image[None].numpy()).copy() for image in images])


def compare(
    net: nn.Module, runtime: str, images: Tensor, calibrations: Mapping[str, Tensor], threads: int,
    weight_bits: int | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Outputs of a net in fp32, and in INT8 for each set of calibration images.

    Args:
        net: in eval mode.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        images: to classify, (n, channels, height, width), as the net expects them.
        calibrations: name -> calibration images.
        threads: of the runtime.
        weight_bits: 7 or 8; None is what this processor needs.

    Returns:
        "fp32" and each name of ``calibrations`` -> (n, classes).
    """
    found = {"fp32": outputs(Subject(net, images[:1]).file.path, runtime, images, threads)}
    for name, calibration in calibrations.items():
        subject = Subject(net, images[:1], calibration)
        found[name] = outputs(subject.quantised(runtime, weight_bits).path, runtime, images, threads)
    return found


def told(found: Mapping[str, np.ndarray], labels: np.ndarray | None = None) -> pd.DataFrame:
    """Compare outputs in INT8 with those in fp32.

    Args:
        found: of :func:`compare`.
        labels: true classes, (n,), if they are known.

    Returns:
        One row for each way to calibrate and image: calibrated, image, agrees (whether fp32 and INT8 choose the same
        class), snr_db (of the image's outputs), and right and right_fp32 where there are labels.
    """
    frames = []
    for name, output in found.items():
        if name == "fp32":
            continue
        frame = pd.DataFrame({
            "calibrated": name, "image": range(len(output)), "agrees": output.argmax(1) == found["fp32"].argmax(1),
            "snr_db": [signal_to_noise(a, b) for a, b in zip(output, found["fp32"], strict=True)],
        })  # fmt: skip
        if labels is not None:
            frame["right"], frame["right_fp32"] = output.argmax(1) == labels, found["fp32"].argmax(1) == labels
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def with_probe(net: nn.Module, images: Tensor, labels: np.ndarray, threads: int) -> nn.Module:
    """A copy of a net whose classifier is a logistic regression on its own pooled features.

    Args:
        net: whose last layer is linear.
        images: to fit it on, (n, channels, height, width), as the net expects them.
        labels: classes, (n,).
        threads: of ONNX Runtime, which computes the features.
    """
    trunk, head = copy.deepcopy(net).eval(), _last(net)
    trunk.set_submodule(head, nn.Identity())
    features = outputs(Subject(trunk, images[:1]).file.path, "onnxruntime", images, threads)
    scale = StandardScaler().fit(features)
    fitted = LogisticRegression(C=PROBE_C, max_iter=2000).fit(scale.transform(features), labels)
    weight = fitted.coef_ / scale.scale_
    bias = fitted.intercept_ - weight @ scale.mean_
    if len(weight) == 1:  # two classes have one row: the other's is its opposite
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    linear = nn.Linear(weight.shape[1], len(weight))
    linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    trunk.set_submodule(head, linear)
    return trunk


def _last(net: nn.Module) -> str:
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError("the net has no linear layer that a probe could replace")
    return names[-1]
