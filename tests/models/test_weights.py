"""Weights of others: small files of our own under torchvision's names, found, checked and never executed."""

import functools
import hashlib
import http.server
import importlib
import os
import threading
import types

import pytest
import torch

from spatialkit import data
from spatialkit._torchvision import torchvision
from spatialkit.lab.seen import watch
from spatialkit.models.weights import pretrained

module = importlib.import_module("spatialkit.models.weights")  # its name in the package is the function's
NAME = "squeezenet1_1"  # 5 MB, the smallest of torchvision's


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No network, no weights of this machine."""
    monkeypatch.setenv("SPATIALKIT_OFFLINE", "1")
    monkeypatch.delenv("SPATIALKIT_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@functools.cache
def weights_of_our_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return torchvision.models.get_model(NAME, weights=None).state_dict()


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Writes weights into a folder, and makes their sum the one in torchvision's name of the file."""

    def put(folder, weights=None, address="https://nowhere.invalid"):
        draft = tmp_path / "draft"
        torch.save(weights_of_our_own() if weights is None else weights, draft)
        name = f"{NAME}-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.pth"
        url = types.SimpleNamespace(url=f"{address}/{name}")
        kinds = types.SimpleNamespace(__members__={"IMAGENET1K_V1": url})
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: kinds)
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return draft.rename(path)

    return put


def same(model, weights):
    state = model.state_dict()
    return list(state) == list(weights) and all(state[name].equal(value) for name, value in weights.items())


def test_holds_the_weights_of_the_file_in_evaluation_mode(put, tmp_path):
    put("own")
    before = torch.get_rng_state()
    with watch() as seen:
        model = pretrained(NAME, tmp_path / "own")
    assert same(model, weights_of_our_own()) and not model.training
    assert torch.equal(torch.get_rng_state(), before)
    (path,) = (tmp_path / "own").iterdir()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert seen == {f"{NAME}/IMAGENET1K_V1": {"copy": "torchvision's weights", "sha256": sha256, "content": sha256}}
    reference = torchvision.models.squeezenet1_1(weights=None)
    reference.load_state_dict(weights_of_our_own())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), reference.eval()(images))


@pytest.mark.parametrize("folder", ["named", "environment", "hub/checkpoints"])
def test_looks_in_three_folders(put, tmp_path, monkeypatch, folder):
    named = tmp_path / "named"
    monkeypatch.setenv("SPATIALKIT_WEIGHTS", str(tmp_path / "environment"))
    path = put(folder)
    assert same(pretrained(NAME, str(named)), weights_of_our_own())
    path.unlink()
    with pytest.raises(data.DataMissing, match=path.name):
        pretrained(NAME, named)


def test_the_named_folder_goes_before_the_others(put, tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALKIT_WEIGHTS", str(tmp_path / "environment"))
    path = put("named")
    for other in ("environment", "hub/checkpoints"):
        (tmp_path / other).mkdir(parents=True)
        (tmp_path / other / path.name).write_bytes(b"never read")
    assert same(pretrained(NAME, path.parent), weights_of_our_own())


@pytest.mark.parametrize("damage", [
    pytest.param(lambda stored: stored[: len(stored) // 2], id="truncated"),
    pytest.param(lambda stored: b"", id="empty"),
    pytest.param(lambda stored: stored[:-1000] + bytes([stored[-1000] ^ 1]) + stored[-999:], id="one-bit"),
])  # fmt: skip
def test_damaged_weights_are_found(put, damage):
    path = put("own")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} is truncated or altered: expected sha256 \w+\.\.\., .*delete"):
        pretrained(NAME, path.parent)


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def test_code_in_a_file_of_weights_is_refused(put):
    path = put("own", {"weight": Malicious()})
    with pytest.raises(ValueError, match=r"refused: .* holds more than weights"):
        pretrained(NAME, path.parent)


def test_missing_weights_say_both_ways_to_get_them(put, tmp_path, monkeypatch):
    put("elsewhere")
    monkeypatch.setenv("SPATIALKIT_WEIGHTS", str(tmp_path / "environment"))
    ways = (
        r"(?s)squeezenet1_1 are not in .*named or .*environment or .*checkpoints.*OFFLINE.*holds squeezenet1_1-\w+\.pth"
    )
    with pytest.raises(data.DataMissing, match=ways + r";.*network access.*checkpoints\."):
        pretrained(NAME, tmp_path / "named")
    assert not (tmp_path / "hub").exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/served on this machine, and counts what is fetched."""
    fetched = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    (tmp_path / "served").mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SPATIALKIT_OFFLINE", "0")
        for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(proxy, raising=False)
        yield f"http://127.0.0.1:{server.server_port}", fetched
        server.shutdown()


def test_downloads_once_into_the_folder_of_torch_hub(put, tmp_path, server):
    address, fetched = server
    path = put("served", address=address)
    for _ in range(2):
        assert same(pretrained(NAME), weights_of_our_own())
    assert fetched == [f"/{path.name}"]
    assert (tmp_path / "hub/checkpoints" / path.name).is_file()


def test_two_who_ask_at_once_download_once(put, server):
    address, fetched = server
    path = put("served", address=address)
    askers = [threading.Thread(target=module._downloaded, args=(NAME, f"{address}/{path.name}", None)) for _ in "ab"]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert fetched == [f"/{path.name}"]


def test_a_damaged_download_is_not_kept(put, tmp_path, server):
    path = put("served", address=server[0])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(data.DataMissing, match="cannot be downloaded: invalid hash value"):
        pretrained(NAME)
    assert [each.suffix for each in (tmp_path / "hub/checkpoints").iterdir()] in ([], [".lock"])


def test_every_classifier_has_a_sum_in_the_name_of_its_file(tmp_path):
    models, n = torchvision.models, 0
    for name in models.list_models(module=models):
        if name.startswith(module._OTHERWISE) or "IMAGENET1K_V1" not in models.get_model_weights(name).__members__:
            with pytest.raises(ValueError, match="no weights IMAGENET1K_V1 that fit as they are"):
                pretrained(name)
            continue
        assert len(module._digits(tmp_path / module._file(module._url(name)))) >= 8
        n += 1
    assert n > 50
    assert module._file(module._url("vgg11")) == "vgg11-8a719046.pth"


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"torchvision\.models has no classifier 'vgg12'; take one such as 'vgg11'"):
        pretrained("vgg12")
