"""Networks that others trained on ImageNet: torchvision's architectures and files of weights, checked."""

import hashlib
import http.client
import os
import pickle
import re
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from spatialkit.data import fetch
from spatialkit.lab import note_loaded, settings

__all__ = ["pretrained"]

_OTHERWISE = ("densenet", "googlenet", "inception")  # torchvision renames their weights or rescales their images
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # in a file's name, as torch.hub has it


def pretrained(name: str, folder: str | os.PathLike | None = None) -> nn.Module:
    """An architecture of torchvision with its weights IMAGENET1K_V1, in evaluation mode, on the CPU.

    The file of weights, under torchvision's own name for it (``vgg11-8a719046.pth``), is looked for in ``folder``, in
    the folder that ``SPATIALKIT_WEIGHTS`` names and in torch.hub's folder of checkpoints, in this order; then it is
    downloaded into the last. Wherever it lies, its SHA-256 must begin with the digits in its name, and nothing but
    tensors is read from it. Images: `spatialkit.data.imagenet_images`.

    Args:
        name: Of a classifier in ``torchvision.models``, such as ``"vgg11"``, ``"vgg16_bn"`` or ``"alexnet"``.
        folder: Where to look first.

    Raises:
        ValueError: If there is no such network with these weights, or the file is truncated or altered.
        DataMissing: If the file is in no folder and cannot be downloaded; says what to do.
    """
    url = _url(name)
    path = _find(url, folder) or _downloaded(name, url, folder)
    sha256 = _checked(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"refused: {path} holds more than weights; delete this file and get it again") from error
    note_loaded(f"{name}/IMAGENET1K_V1", "torchvision's weights", sha256, sha256)
    return _with(name, weights).eval()


def _url(name: str) -> str:
    """Where torchvision's weights are."""
    from spatialkit._torchvision import torchvision

    models = torchvision.models
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision.models has no classifier {name!r}; take one such as 'vgg11' or 'alexnet'")
    kinds = models.get_model_weights(name).__members__
    if name.startswith(_OTHERWISE) or "IMAGENET1K_V1" not in kinds:
        raise ValueError(f"{name} has no weights IMAGENET1K_V1 that fit as they are; take one such as 'vgg11'")
    return kinds["IMAGENET1K_V1"].url


def _folders(folder: str | os.PathLike | None) -> list[Path]:
    """Where to look, in order; torch.hub's comes last."""
    named = [folder, settings.weights(), Path(torch.hub.get_dir(), "checkpoints")]
    return [Path(each).expanduser().resolve() for each in named if each]


def _find(url: str, folder: str | os.PathLike | None) -> Path | None:
    paths = [each / _file(url) for each in _folders(folder)]
    return next((path for path in paths if path.is_file()), None)


def _file(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _downloaded(name: str, url: str, folder: str | os.PathLike | None) -> Path:
    """The file in torch.hub's folder after a download; DataMissing says both ways to get it if there is none."""
    path = _folders(None)[-1] / _file(url)
    try:
        if not fetch.reachable(url):
            raise fetch.DataMissing(fetch.obstacle(url))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():  # else another process was quicker
                torch.hub.download_url_to_file(url, str(path), _digits(path), progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise fetch.DataMissing(
            f"the weights of {name} are not in {' or '.join(map(str, _folders(folder)))}, "
            f"and cannot be downloaded: {error}. "
            f"Either set SPATIALKIT_WEIGHTS to a folder that holds {path.name}; "
            f"or run once with network access, and it is downloaded into {path.parent}."
        ) from error
    return path


def _digits(path: Path) -> str:
    """First hexadecimal digits of the file's SHA-256, by its name."""
    return _HASH.findall(path.name)[0]


def _checked(path: Path) -> str:
    """SHA-256 of the file, which begins as its name says."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(_digits(path)):
        raise ValueError(
            f"{path} is truncated or altered: expected sha256 {_digits(path)}..., found {found}; "
            "delete this file and get it again"
        )
    return found


def _with(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """The architecture with these weights; torch's random numbers go on as if none had been drawn for it."""
    from spatialkit._torchvision import torchvision

    with torch.random.fork_rng(devices=[]):
        model = torchvision.models.get_model(name, weights=None)
    model.load_state_dict(weights)
    return model
