"""The data sets: one record for each, with all that is known of it. A new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spatialkit.data import embedded, files
from spatialkit.data.files import Content

__all__ = ["SETS", "TITLES", "Copy", "DataSet"]


@dataclass(frozen=True)
class Copy:
    """One way in which a data set is stored.

    Attributes:
        words: What to call it.
        train, test: File -> sum of its uncompressed content, ``md5:...`` or ``sha256:...``, as published.
        read: Contents of the files of a split, and the split -> what they hold.
        source: torchvision's class that downloads this copy; "" if it cannot be downloaded.
        url: What must answer before a download is begun.
    """

    words: str
    train: dict[str, str]
    test: dict[str, str]
    read: Callable[[Sequence[bytes], str], Content]
    source: str = ""
    url: str = ""

    def files(self, split: str) -> dict[str, str]:
        return self.train if split == "train" else self.test


@dataclass(frozen=True)
class DataSet:
    """A data set by name.

    Attributes:
        name: What `spatialkit.data.load` takes.
        title: What figures and tables call it.
        classes: Name of each label; () where the files hold them.
        copies: Ways in which it is stored, in order of preference.
        embedded: Split -> what a library brings along, and its SHA-256; for sets without files.
        keep: Split -> number of images to keep, the first ones; by default all.
        needed: Whether the notebooks' own profile needs it.
    """

    name: str
    title: str
    classes: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    embedded: Callable[[str], tuple[Content, str]] | None = None
    keep: dict[str, int] = field(default_factory=dict)
    needed: bool = False


def _idx_copy(folder: str, url: str, *sums: str) -> Copy:
    """The four files of MNIST and its relatives; sums in the order of ``names``."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    known = {f"{folder}/raw/{name}": f"md5:{md5}" for name, md5 in zip(names, sums, strict=True)}
    train, test = ({file: md5 for file, md5 in known.items() if part in file} for part in ("raw/train", "raw/t10k"))
    return Copy("original files", train, test, files.read_idx, folder, url + names[0] + ".gz")


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_BATCHES = {
    "cifar-10-batches-py/data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
}
_TEST_BATCH = {"cifar-10-batches-py/test_batch": "md5:40351d587109b95175f43aff81a1287e"}
_META = {"cifar-100-python/meta": "md5:7973b15100ade9c7d40fb424638fde48"}
_JPEG = {"cifar10_jpeg.npz": "sha256:cb6fe2a3cddca4b8c088824be221ecf79ed3094e5cdb305051739bed11b7ad2c"}
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

_ALL = (
    DataSet(
        "mnist",
        "MNIST",
        tuple("0123456789"),
        (
            _idx_copy(
                "MNIST",
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        needed=True,
    ),
    DataSet(
        "fashion_mnist",
        "Fashion-MNIST",
        tuple(_FASHION.split(",")),
        (
            _idx_copy(
                "FashionMNIST",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
        needed=True,
    ),
    DataSet(
        "cifar10",
        "CIFAR-10",
        _CIFAR10,
        (
            Copy(
                "original files", _BATCHES, _TEST_BATCH, files.read_batches, "CIFAR10",
                _TORONTO + "cifar-10-python.tar.gz",
            ),
            Copy("JPEG re-encode, quality 75", _JPEG, _JPEG, files.read_jpeg),
        ),
        needed=True,
    ),
    DataSet(
        "cifar100",
        "CIFAR-100",
        (),
        (
            Copy(
                "original files",
                {"cifar-100-python/train": "md5:16019d7e3df5f24257cddd939b257f8d"} | _META,
                {"cifar-100-python/test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"} | _META,
                files.read_batches,
                "CIFAR100",
                _TORONTO + "cifar-100-python.tar.gz",
            ),
        ),
    ),
    DataSet(
        "cifar10_lossless",
        "CIFAR-10, lossless part",
        _CIFAR10,
        (
            Copy(
                "lossless part",
                {
                    "cifar10_lossless_4000.npz": "sha256:"
                    "02164c90d330f0883fd13ab95006ca503eadbdcd7ead7ca1eb4360c35bc1f4c0"
                },
                {
                    "cifar10_lossless_test_1000.npz": "sha256:"
                    "91b99608be9bea14a42e11af27ef1ab45c74274975520d84e74074eaf299b6f3"
                },
                files.read_npz,
            ),
            Copy(
                "first images of the original files", dict([next(iter(_BATCHES.items()))]), _TEST_BATCH,
                files.read_batches, "CIFAR10", _TORONTO + "cifar-10-python.tar.gz",
            ),
        ),
        keep={"train": 4000, "test": 1000},
    ),
    DataSet("digits", "digits", tuple("0123456789"), embedded=embedded.read_digits),
    DataSet("photographs", "photographs", embedded.PHOTOGRAPHS, embedded=embedded.read_crops),
)  # fmt: skip

SETS = {one.name: one for one in _ALL}
TITLES = {one.name: one.title for one in _ALL}
