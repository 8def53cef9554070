"""How long D, G, R and cosines of every layer take, against three bare passes (clean, deformed, noised); and memory.

    python benchmarks/sensitivity.py [--images 1000] [--repeats 5] [--csv times.csv] [--tmeasures build/tmeasures]

Random images of 32 x 32, weights channels-last, evaluation mode. Bare passes run in batches of 100, as `predict`
does, and of 48, which is what passes at once here (16 images and two versions of each). All are timed in turn in one
process and the best of all turns counts; perturbing the images and 1000 resamples are part of our time, not of the
bare passes'.

Memory is the peak of a process of its own that measures 1000 or 10 000 images (one image seen again and again, so
that the images themselves take none), above the same process with 200.

The peer is tmeasures (PyPI), its NormalizedVarianceInvariance of all layers over three transformations: the identity
and two warps. Time counts per perturbed image, of which both make two per image. To compare, first run

    pip install --no-deps --target build/tmeasures tmeasures
"""

import argparse
import importlib
import resource
import sys
from unittest import mock

import pandas as pd
import torch
from _timing import best_times, peak
from torch import nn

from spatialkit.deform import Diffeomorphism, warp
from spatialkit.measure.response import sensitivity
from spatialkit.models import PlainCNN

FIELDS = Diffeomorphism.of_displacement(1, cutoff=3, size=32)
PEER_IMAGES = 64


def vgg11() -> nn.Sequential:
    """VGG11 for 32 x 32: eight convolutions with batch normalisation and ReLU in place, one linear layer."""
    layers, channels = [], 3
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


NETWORKS = {
    "PlainCNN, 4 x 64": lambda: PlainCNN((3, 32, 32), 10, 4, width=64, pool_every=2),
    "VGG11, batch norm": vgg11,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().to(memory_format=torch.channels_last).eval()


@torch.no_grad()
def passes(model: nn.Module, images: torch.Tensor, batch: int) -> None:
    for _ in range(3):
        for part in images.split(batch):
            model(part)


def peer_task(model: nn.Module, images: torch.Tensor, path: str):
    """The peer's measure as a function to time, or None with a line that says why."""
    sys.path.insert(0, path)
    try:
        peer = import_without_plots("tmeasures").pytorch
    except ImportError as error:
        print(f"tmeasures is left out ({error}): see the top of this file\n")
        return None

    class Warp(peer.PyTorchTransformation):
        def __init__(self, field):
            super().__init__()
            self.field = field

        def parameters(self):
            return torch.zeros(1)

        def __call__(self, image):
            return warp(image[None], self.field)[0] if self.field is not None else image

    class Warps(peer.PyTorchTransformationSet):
        def id(self):
            return "warps"

        def copy(self):
            return self

        def valid_input(self, shape):
            return True

    warps = Warps([Warp(None), *(Warp(field[None]) for field in FIELDS.sample(2, 32, 0))])
    activations = peer.AutoActivationsModule(model)
    options = peer.PyTorchMeasureOptions(batch_size=100, verbose=False)
    return lambda: peer.NormalizedVarianceInvariance().eval(images, warps, activations, options)


def import_without_plots(name: str):
    """Import a package; what its plots need and is not installed becomes empty."""
    for _ in range(20):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name.startswith(name):
                raise
            for loaded in [module for module in sys.modules if module.startswith(name)]:
                del sys.modules[loaded]
            sys.modules[error.name] = mock.MagicMock()
    raise ImportError(f"{name} needs too much that is not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="number of images")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--tmeasures", default="build/tmeasures", help="where the peer is installed")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        model = PlainCNN((3, 32, 32), 10, 2, width=16, pool_every=1).to(memory_format=torch.channels_last)
        image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        sensitivity(model, image.expand(arguments.images, -1, -1, -1), FIELDS)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    images = torch.randn(arguments.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = []
    for name in NETWORKS:
        model = build(name)
        seconds = best_times(
            {
                "100": lambda model=model: passes(model, images, 100),
                "48": lambda model=model: passes(model, images, 48),
                "all": lambda model=model: sensitivity(model, images, FIELDS),
                "squares": lambda model=model: sensitivity(model, images, FIELDS, normalise=["mean square"]),
            },
            arguments.repeats,
        )
        row = {
            "network": name,
            "threads": torch.get_num_threads(),
            "three passes of 100 (s)": seconds["100"],
            "three passes of 48 (s)": seconds["48"],
            "D, G, R, cosines (s)": seconds["all"],
            "/ passes of 100": seconds["all"] / seconds["100"],
            "/ passes of 48": seconds["all"] / seconds["48"],
            "D, G, R / passes of 100": seconds["squares"] / seconds["100"],
        }
        if peer := peer_task(build(name), images[:PEER_IMAGES], arguments.tmeasures):
            ours = 1e3 * seconds["all"] / (2 * len(images))
            theirs = 1e3 * best_times({"peer": peer}, 1)["peer"] / (2 * PEER_IMAGES)
            row |= {"ms per perturbed image": ours, "tmeasures": theirs, "tmeasures / ours": theirs / ours}
        rows.append(row)
    table = pd.DataFrame(rows).round(2)
    print(table.T.to_string(header=False))
    if not arguments.no_memory:
        least = peak(__file__, "--measure", "--images", "200")
        for n in (1000, 10_000):
            print(
                f"memory for {n} images beyond that for 200 (MiB)",
                round(peak(__file__, "--measure", "--images", str(n)) - least, 1),
            )
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
