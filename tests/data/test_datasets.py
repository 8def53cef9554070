"""Data sets: what they hold, that damage is found, that nothing is substituted or executed."""

import concurrent.futures
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spatialkit import data
from spatialkit.data import fetch, files
from spatialkit.data.sets import SETS
from spatialkit.lab.seen import watch

RAW = "MNIST/raw"
MNIST = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


# Real sets: numbers from the README of the data folder, which has them from the publications.


@pytest.mark.parametrize("split, mean", [("train", 0.13066), ("test", None)])
def test_mnist_is_the_published_one(real, split, mean):
    mnist = real("mnist", split)
    assert mnist.images.shape == (sum(MNIST[split]), 1, 28, 28) and mnist.images.dtype == torch.uint8
    assert mnist.labels.bincount().tolist() == MNIST[split] and mnist.labels.dtype == torch.int64
    assert (mnist.copy, mnist.classes[7], len(mnist)) == ("original files", "7", sum(MNIST[split]))
    if mean is not None:
        assert float(mnist.images.float().mean() / 255) == pytest.approx(mean, abs=5e-6)


def test_fashion_mnist_is_the_published_one(real):
    fashion = real("fashion_mnist")
    assert fashion.labels.bincount().tolist() == [6000] * 10
    assert float(fashion.images.float().mean() / 255) == pytest.approx(0.28604, abs=5e-6)
    assert fashion.classes[9] == "Ankle boot"


def test_cifar10_says_which_copy_it_is(real):
    cifar = real("cifar10", "test")
    assert cifar.images.shape == (10000, 3, 32, 32)
    assert cifar.labels.bincount().tolist() == [1000] * 10
    assert cifar.copy in {"original files", "JPEG re-encode, quality 75"}


@pytest.mark.slow
def test_cifar10_train_has_the_published_means(real):
    cifar = real("cifar10")
    assert cifar.labels.bincount().tolist() == [5000] * 10
    means = cifar.images.double().mean((0, 2, 3)) / 255  # red, green, blue
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-4)


def test_jpeg_copy_is_30_db_from_the_lossless_part(real):
    lossless, cifar = real("cifar10_lossless", "test"), real("cifar10", "test")
    if not cifar.copy.startswith("JPEG"):
        pytest.skip("the CIFAR-10 here is the original, without JPEG")
    assert len(lossless) == 1000 and lossless.labels.equal(cifar.labels[lossless.index])
    error = lossless.images.double() - cifar.images[lossless.index]
    psnr = 10 * torch.log10(255**2 / (error**2).mean((1, 2, 3)))
    assert float(psnr.median()) == pytest.approx(30.5, abs=0.1)


def test_lossless_part_is_the_first_train_images(real):
    lossless = real("cifar10_lossless")
    assert lossless.index.tolist() == list(range(4000))
    assert lossless.labels.bincount().tolist() == [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]


CONTENT = {  # of what the readers return: another sum means that committed records saw other data
    ("mnist", "train", "original files"): "36ff05636c53c89d",
    ("mnist", "test", "original files"): "2867e12bad6113c4",
    ("fashion_mnist", "train", "original files"): "6d622863ac2c3a6c",
    ("fashion_mnist", "test", "original files"): "8cfb46765774cf29",
    ("cifar10", "train", "JPEG re-encode, quality 75"): "8a4596b881e3994a",
    ("cifar10", "test", "JPEG re-encode, quality 75"): "58304909acef4d4b",
    ("cifar10_lossless", "train", "lossless part"): "977a6cff38bc5187",
    ("cifar10_lossless", "test", "lossless part"): "04300545f7e02450",
    ("digits", "train", "embedded in scikit-learn"): "c1283f6c5b7854f7",
    ("digits", "test", "embedded in scikit-learn"): "f3d20746d0dfb75b",
    ("photographs", "train", "embedded in scikit-learn"): "48e67c40abdc7e71",
    ("photographs", "test", "embedded in scikit-learn"): "5c7119219ec21233",
}


@pytest.mark.parametrize("name, split, copy", CONTENT)
def test_readers_return_the_tensors_that_the_records_were_made_of(real, name, split, copy):
    found = real(name, split)
    if found.copy != copy:
        pytest.skip(f"another copy of {name} is here: {found.copy}")
    assert found.content[:16] == CONTENT[name, split, copy]
    assert len(found.content) == 64


# Embedded sets.


def test_digits_are_stretched_to_full_range():
    train, test = data.load("digits"), data.load("digits", "test")
    assert train.images.shape == (1297, 1, 8, 8) and test.images.shape == (500, 1, 8, 8)
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert len(train.images.unique()) == 17  # 0..16, stretched
    assert torch.cat([train.index, test.index]).equal(torch.arange(1797))
    assert sorted(set(test.labels.tolist())) == list(range(10))


def test_crops_lie_side_by_side_in_the_photographs():
    whole = data.photographs()
    assert {name: image.shape for name, image in whole.items()} == {
        "china": (3, 427, 640),
        "flower": (3, 427, 640),
    }
    train, test = data.load("photographs"), data.load("photographs", "test")
    assert (len(train), len(test)) == (416, 104)
    assert test.index.tolist() == list(range(4, 520, 5))
    for crops in (train, test):
        for crop, label, index in zip(crops.images, crops.labels, crops.index, strict=True):
            row, column = divmod(int(index) % 260, 20)  # 13 rows of 20 in each photograph
            source = whole[crops.classes[int(label)]]
            assert crop.equal(source[:, 32 * row :, 32 * column :][:, :32, :32])


@pytest.mark.parametrize("name", ["digits", "photographs"])
def test_embedded_sets_are_always_here(name, cache):
    assert data.available(name) == "here"
    assert data.load(name).copy == "embedded in scikit-learn"


# Small sets made here, whose sums take the place of the published ones.


def idx(array):
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def put(monkeypatch):
    """Writes files into a folder, and makes their sums the expected ones."""

    def put(folder, contents, packed=False):
        for name, content in contents.items():
            path = folder / (name + ".gz" * packed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content) if packed else content)
            for part in (p for s in SETS.values() for c in s.copies for p in (c.train, c.test) if name in p):
                algorithm = part[name].split(":")[0]
                monkeypatch.setitem(part, name, f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")
        return folder

    return put


def small_mnist(seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"train": 5, "t10k": 3}
    images = {k: rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for k, n in sizes.items()}
    labels = {k: rng.integers(10, size=n, dtype=np.uint8) for k, n in sizes.items()}
    contents = {f"{RAW}/{k}-images-idx3-ubyte": idx(images[k]) for k in sizes}
    contents |= {f"{RAW}/{k}-labels-idx1-ubyte": idx(labels[k]) for k in sizes}
    return contents, images, labels


def python2_pickle(pixels, labels):
    """A batch as Python 2 wrote those of CIFAR: bytes for text, and the old name of NumPy's module."""
    shape = b"J" + struct.pack("<i", len(pixels)) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array = empty + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def small_batches(n=4, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"cifar-10-batches-py/{b}" for b in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    pixels = {name: rng.integers(256, size=(n, 3072), dtype=np.uint8) for name in names}
    labels = [i % 10 for i in range(n)]
    return {name: python2_pickle(pixels[name], labels) for name in names}, pixels


def small_jpeg(n=6, seed=0):
    rng = np.random.default_rng(seed)
    arrays, decoded = {"class_names": np.array(["airplane"])}, {}
    for split in ("train", "test"):
        stored, decoded[split] = [], []
        for pixels in rng.integers(256, size=(n, 32, 32, 3), dtype=np.uint8):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=75)
            stored.append(file.getvalue())
            decoded[split].append(np.asarray(Image.open(file)).transpose(2, 0, 1))
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(stored), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, stored)])
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8)
    return npz(**arrays), {split: torch.tensor(np.stack(images)) for split, images in decoded.items()}


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_gzip_file_is_not_unpacked_without_end(tmp_path, put, cache, monkeypatch):
    put(tmp_path, small_mnist()[0], packed=True)
    monkeypatch.setattr(files, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"truncated or altered.*over 0 MiB"):
        data.load("mnist", folder=tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_idx_files_are_read_with_and_without_gzip(tmp_path, put, cache, packed):
    contents, images, labels = small_mnist()
    train = data.load("mnist", folder=put(tmp_path, contents, packed))
    assert train.images[:, 0].equal(torch.tensor(images["train"]))
    assert train.labels.tolist() == labels["train"].tolist()
    assert train.index.tolist() == list(range(5))
    files_of_train = [f"{RAW}/train-images-idx3-ubyte", f"{RAW}/train-labels-idx1-ubyte"]
    assert train.sha256 == hashlib.sha256(b"".join(contents[f] for f in files_of_train)).hexdigest()


def test_environment_names_the_folder(tmp_path, put, cache, monkeypatch):
    monkeypatch.setenv("SPATIALKIT_DATA", str(put(tmp_path, small_mnist()[0])))
    assert data.available("mnist") == "here"
    assert len(data.load("mnist", "test")) == 3


def test_named_folder_goes_before_the_cache_folder(tmp_path, put, cache):
    images = small_mnist()[1]
    put(cache, small_mnist()[0])
    assert data.load("mnist").images[:, 0].equal(torch.tensor(images["train"]))
    assert data.load("mnist", folder=tmp_path / "empty").images.equal(data.load("mnist").images)
    other, other_images, _ = small_mnist(seed=1)
    named = data.load("mnist", folder=put(tmp_path / "named", other))
    assert named.images[:, 0].equal(torch.tensor(other_images["train"]))


def test_second_load_gives_the_same_tensors(tmp_path, put, cache):
    put(tmp_path, small_mnist()[0])
    assert data.load("mnist", folder=tmp_path) is data.load("mnist", "train", folder=str(tmp_path))


DAMAGE = [
    pytest.param(lambda stored: stored[:-5], id="truncated"),
    pytest.param(lambda stored: stored[: len(stored) // 2], id="half"),
    pytest.param(lambda stored: b"", id="empty"),
    pytest.param(lambda stored: stored[:99] + bytes([stored[99] ^ 1]) + stored[100:], id="one-bit"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_damaged_idx_file_is_found(tmp_path, put, cache, packed, damage):
    put(tmp_path, small_mnist()[0], packed)
    path = tmp_path / (f"{RAW}/train-images-idx3-ubyte" + ".gz" * packed)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"(?s){path.name} is truncated .*expected md5 \w+.* found .*delete"):
        data.load("mnist", folder=tmp_path)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["cifar10", "cifar10_lossless"])
def test_damaged_npz_is_found(tmp_path, put, cache, name, damage):
    file = {"cifar10": "cifar10_jpeg.npz", "cifar10_lossless": "cifar10_lossless_4000.npz"}[name]
    path = put(tmp_path, {file: small_jpeg()[0]}) / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{file} is truncated or altered: expected sha256 \w+, found \w+;"):
        data.load(name, folder=tmp_path)


def test_real_sums_refuse_a_small_copy(tmp_path, cache):
    path = tmp_path / "cifar10_jpeg.npz"
    path.write_bytes(small_jpeg()[0])
    with pytest.raises(ValueError, match="expected sha256 cb6fe2a3"):
        data.load("cifar10", folder=tmp_path)


def test_jpeg_copy_is_decoded_and_kept(tmp_path, put, cache, monkeypatch):
    stored, decoded = small_jpeg()
    put(tmp_path / "a", {"cifar10_jpeg.npz": stored})
    put(tmp_path / "b", {"cifar10_jpeg.npz": stored})
    first = data.load("cifar10", folder=tmp_path / "a")
    assert first.images.equal(decoded["train"]) and first.copy == "JPEG re-encode, quality 75"
    assert len(list((cache / "decoded").glob("*-train.npz"))) == 1
    monkeypatch.setattr(files, "_decode", None)  # not needed again: the pixels are kept
    assert data.load("cifar10", folder=tmp_path / "b").images.equal(decoded["train"])


def test_original_cifar_goes_before_jpeg(tmp_path, put, cache):
    contents, pixels = small_batches()
    put(tmp_path, contents | {"cifar10_jpeg.npz": small_jpeg()[0]})
    train = data.load("cifar10", folder=tmp_path)
    assert train.copy == "original files"
    expected = np.concatenate([pixels[f"cifar-10-batches-py/data_batch_{i}"] for i in range(1, 6)])
    assert train.images.flatten(1).equal(torch.tensor(expected))
    assert train.labels.tolist() == [0, 1, 2, 3] * 5


@pytest.mark.parametrize("split, n, kept", [("train", 4100, 4000), ("test", 1100, 1000)])
def test_lossless_part_is_taken_from_the_original(tmp_path, put, cache, split, n, kept):
    contents, pixels = small_batches(n)
    part = data.load("cifar10_lossless", split, folder=put(tmp_path, contents))
    batch = {"train": "data_batch_1", "test": "test_batch"}[split]
    assert part.images.flatten(1).equal(torch.tensor(pixels[f"cifar-10-batches-py/{batch}"][:kept]))
    assert part.index.tolist() == list(range(kept)) and part.copy == "first images of the original files"


def test_cifar100_takes_its_names_from_the_files(tmp_path, put, cache):
    pixels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    batch = pickle.dumps({b"data": pixels, b"fine_labels": [1, 0], b"coarse_labels": [0, 0]}, protocol=4)
    meta = pickle.dumps({b"fine_label_names": [b"apple", b"bee"]}, protocol=4)
    put(tmp_path, {"cifar-100-python/train": batch, "cifar-100-python/meta": meta})
    cifar = data.load("cifar100", folder=tmp_path)
    assert cifar.classes == ("apple", "bee") and cifar.labels.tolist() == [1, 0]
    assert cifar.images.flatten(1).equal(torch.tensor(pixels))


def test_incomplete_original_is_not_replaced_by_jpeg(tmp_path, put, cache):
    contents = small_batches()[0] | {"cifar10_jpeg.npz": small_jpeg()[0]}
    del contents["cifar-10-batches-py/data_batch_3"]
    put(tmp_path, contents)
    with pytest.raises(ValueError, match=r"cifar10 is incomplete in .*: add cifar-10-batches-py/data_batch_3"):
        data.load("cifar10", folder=tmp_path)
    assert data.available("cifar10", folder=tmp_path) == "missing"


# Nothing is executed.


class Malicious:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.system, ("true",)), (eval, ("1",)), (np.load, ("x",))])
def test_malicious_pickle_is_refused(tmp_path, put, cache, call):
    contents = small_batches()[0]
    contents["cifar-10-batches-py/test_batch"] = pickle.dumps({b"data": Malicious(*call)}, protocol=4)
    with pytest.raises(ValueError, match="refused: this pickle asks for"):
        data.load("cifar10", "test", folder=put(tmp_path, contents))


def test_npz_with_pickled_objects_is_refused(tmp_path, put, cache):
    evil = npz(images=np.array([Malicious(os.system, ("true",))], object), labels=np.zeros(1), index=np.zeros(1))
    put(tmp_path, {"cifar10_lossless_4000.npz": evil})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.load("cifar10_lossless", folder=tmp_path)


# Missing sets and downloads.


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no data set is called 'minst'. Did you mean 'mnist'\? There are: mnist,"):
        data.load("minst")
    with pytest.raises(ValueError, match=r"no data set is called 'x'\. There are"):
        data.available("x")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        data.load("digits", "val")


def test_missing_set_says_both_ways_to_get_it(cache):
    assert data.available("cifar100") == "missing"
    with pytest.raises(data.DataMissing, match=r"(?s)cifar100 \(train\).*set SPATIALKIT_DATA.*cifar-100-python/train"):
        data.load("cifar100")
    with pytest.raises(FileNotFoundError, match="run once with network access"):
        data.load("cifar100")


def test_network_that_does_not_answer_is_no_way(monkeypatch):
    monkeypatch.delenv("SPATIALKIT_OFFLINE")
    assert not fetch.reachable("http://127.0.0.1:9/nothing", timeout=1)


@pytest.fixture
def network(monkeypatch, put):
    """A network that holds small sets; its list notes the downloads."""
    downloads, lock = [], threading.Lock()

    def bring(source, folder):
        with lock:
            downloads.append(source)
        put(folder, small_mnist()[0] if source == "MNIST" else small_batches(4100)[0])

    monkeypatch.setattr(fetch, "reachable", lambda url: True)
    monkeypatch.setattr(fetch, "_download_with_torchvision", bring)
    return downloads


def test_set_is_downloaded_once_into_the_cache_folder(tmp_path, cache, network):
    assert data.available("mnist") == "downloadable"
    assert len(data.load("mnist", folder=tmp_path)) == 5
    assert len(data.load("mnist", "test")) == 3
    assert data.available("mnist") == "here" and network == ["MNIST"]
    assert sorted(path.name for path in cache.iterdir()) == ["MNIST", "MNIST.lock"]


def test_lossless_part_downloads_all_of_the_original(cache, network):
    assert len(data.load("cifar10_lossless")) == 4000
    assert len(data.load("cifar10")) == 5 * 4100 and network == ["CIFAR10"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and its address on a web server of this machine."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SPATIALKIT_OFFLINE")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def answers_at(monkeypatch, name, url):
    """Let the first copy of a data set be downloaded when this address answers."""
    first, *others = SETS[name].copies
    there = dataclasses.replace(first, url=url)
    monkeypatch.setitem(SETS, name, dataclasses.replace(SETS[name], copies=(there, *others)))


def test_mnist_comes_through_torchvision(put, cache, server, monkeypatch):
    from spatialkit._torchvision import torchvision

    folder, url = server
    contents = small_mnist()[0]
    sums = [
        (path.name, hashlib.md5(path.read_bytes()).hexdigest())
        for path in (put(folder, contents, packed=True) / RAW).iterdir()
    ]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{url}/{RAW}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    answers_at(monkeypatch, "mnist", f"{url}/{RAW}/{sums[0][0]}")
    assert data.available("mnist") == "downloadable"
    assert data.load("mnist").images.equal(data.load("mnist", folder=folder).images)
    assert all((cache / file).read_bytes() == content for file, content in contents.items())
    assert sorted(path.name for path in cache.iterdir()) == ["MNIST", "MNIST.lock"]


@pytest.mark.parametrize("honest", [True, False])
def test_cifar_comes_through_torchvision_but_not_through_its_unpickling(put, cache, server, monkeypatch, honest):
    from spatialkit._torchvision import torchvision

    folder, url = server
    archive = Path(shutil.make_archive(folder / "x", "gztar", put(folder / "files", small_batches()[0])))
    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "url", f"{url}/{archive.name}")
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive.read_bytes()[not honest :]).hexdigest())
    monkeypatch.setattr(dataset, "__init__", None)  # reads the files with an open unpickler
    answers_at(monkeypatch, "cifar10", f"{url}/{archive.name}")
    if honest:
        assert data.load("cifar10").images.equal(data.load("cifar10", folder=folder / "files").images)
    else:
        with pytest.raises(data.DataMissing, match="the download failed: File not found or corrupted"):
            data.load("cifar10")
    assert not (cache / "CIFAR10.part").exists()


def test_failed_download_leaves_nothing_behind(cache, network, monkeypatch):
    def fail(source, folder):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("File not found or corrupted.")

    with monkeypatch.context() as broken:
        broken.setattr(fetch, "_download_with_torchvision", fail)
        with pytest.raises(data.DataMissing, match="the download failed: File not found or corrupted"):
            data.load("mnist")
    assert [path.name for path in cache.iterdir()] == ["MNIST.lock"]
    assert len(data.load("mnist")) == 5


def test_many_that_download_at_once_download_once(cache, network):
    wanted = list(small_mnist()[0])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch.download("MNIST", "", wanted), range(8)))
    assert network == ["MNIST"]


# What the cache folder keeps.


def test_many_that_ask_at_once_make_an_array_once(cache):
    made = []

    def make():
        made.append(1)
        return np.arange(1000)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(lambda _: fetch.kept("key", make), range(8)))
    assert all((array == np.arange(1000)).all() for array in arrays) and made == [1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_array_is_made_again(cache, damage):
    fetch.kept("key", lambda: np.arange(1000))
    (path,) = (cache / "decoded").glob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged; made again"):
        assert fetch.kept("key", lambda: np.arange(7)).tolist() == list(range(7))
    assert fetch.kept("key", lambda: None).tolist() == list(range(7))


def test_cache_folder_that_cannot_be_written_is_done_without(cache):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert fetch.kept("key", lambda: np.arange(3)).tolist() == [0, 1, 2]


# The record of what was loaded, and the import of torchvision.


def test_watch_notes_what_is_loaded():
    with watch() as outer:
        data.load("digits")
        with watch() as inner:
            data.load("digits", "test")
    data.load("photographs")
    assert set(outer) == {"digits/train", "digits/test"} and set(inner) == {"digits/test"}
    digits = data.load("digits")
    assert outer["digits/train"] == {
        "copy": digits.copy,
        "sha256": digits.sha256[:16],
        "content": digits.content[:16],
    }


def test_watch_does_not_see_other_threads():
    with watch() as seen:
        thread = threading.Thread(target=data.load, args=("digits",))
        thread.start()
        thread.join()
    assert seen == {}


def test_data_are_imported_without_torchvision():
    code = "import sys, spatialkit.data; print('torchvision' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_sums_of_cifar_are_those_of_torchvision():
    from spatialkit._torchvision import torchvision

    datasets = torchvision.datasets
    for dataset, name in ((datasets.CIFAR10, "cifar10"), (datasets.CIFAR100, "cifar100")):
        copy = SETS[name].copies[0]
        for file, md5 in dataset.train_list + dataset.test_list:
            assert (copy.train | copy.test)[f"{dataset.base_folder}/{file}"] == f"md5:{md5}"
        assert (copy.source, copy.url) == (dataset.__name__, dataset.url)
    for dataset, name in ((datasets.MNIST, "mnist"), (datasets.FashionMNIST, "fashion_mnist")):
        copy = SETS[name].copies[0]
        assert (copy.source, copy.url) == (dataset.__name__, dataset.mirrors[0] + dataset.resources[0][0])


def test_torchvision_is_imported_after_a_failed_import_too():
    code = "\n".join(
        [
            "try:",
            "    import torchvision",
            "except RuntimeError:",
            "    pass",
            "from spatialkit._torchvision import torchvision",
            "import torchvision as again",
            "print(again is torchvision, torchvision.models.resnet18.__name__)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "resnet18"]
