"""Training small networks: a sweep against the convolution peak, and against the loop of a tutorial.

    python benchmarks/training.py [--rounds 3] [--csv PATH]

Everything is measured in one run, in turn, and reported as ratios of medians: the peak by as many processes at once as
the sweep has, the sweep (`fit` in one single-threaded process per core), and a loop with a DataLoader in one process
with all threads. The network is the source's for MNIST: three convolutions of 64 units.
"""

import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
from loky import cpu_count
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spatialkit.lab import Processes
from spatialkit.models import PlainCNN
from spatialkit.train import fit, standardise

N_IMAGES, EPOCHS, BATCH, SHAPE = 2000, 2, 64, (1, 30, 30)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Random images: the time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N_IMAGES, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (N_IMAGES,), generator=generator)


def conv_flops() -> int:
    """Multiplications and additions of the convolutions, forward, per image."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    model = PlainCNN(SHAPE, 10, depth=3)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(torch.zeros(1, *SHAPE))
    for hook in hooks:
        hook.remove()
    return total


def peak(seconds: float) -> float:
    """FLOP/s of this process: the best of several shapes of a 3 x 3 convolution of 64 units, forward."""
    best = 0.0
    for batch, side in ((64, 14), (64, 28), (128, 14)):
        convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(batch, 64, side, side).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            convolution(x)
            start, calls = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                convolution(x)
                calls += 1
        best = max(best, calls * 2 * batch * 64 * 64 * 9 * side**2 / (time.perf_counter() - start))
    return best


def train_by_fit(seed: int) -> float:
    """Images per second of one run as a sweep makes it."""
    images, labels = problem()
    (x,) = standardise(images)
    model = PlainCNN(SHAPE, 10, depth=3, seed=seed)
    start = time.perf_counter()
    fit(model, x, labels, epochs=EPOCHS, seed=seed, batch=BATCH)
    return N_IMAGES * EPOCHS / (time.perf_counter() - start)


class Pictures(Dataset):
    """A data set as tutorials write it: an image at a time, converted and normalised."""

    def __init__(self):
        self.images, self.labels = problem()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.images[index, 0].numpy())
        x = torch.from_numpy(np.array(image)).unsqueeze(0).float().div(255)
        return (x - 0.5) / 0.3, int(self.labels[index])


def train_by_tutorial(workers: int) -> float:
    """Images per second of a loop over a DataLoader, with all threads."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 64, 64):
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 3 * 3, 10))
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    loader = DataLoader(Pictures(), batch_size=BATCH, shuffle=True, num_workers=workers)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
    return N_IMAGES * EPOCHS / (time.perf_counter() - start)


def measure(rounds: int, cores: int) -> pd.DataFrame:
    """One row per round: FLOP/s of the peak, images per second of the sweep and of the tutorial's loop."""
    pool = Processes(cores)
    together = lambda function, arguments: [f.result() for f in [pool.submit(function, a) for a in arguments]]  # noqa: E731
    together(train_by_fit, range(cores))  # warm-up
    rows = []
    for _ in range(rounds):
        row = {"peak (FLOP/s)": sum(together(peak, [0.5] * cores))}
        row["sweep (images/s)"] = sum(together(train_by_fit, range(2 * cores))) / 2
        row["tutorial (images/s)"] = max(train_by_tutorial(0), train_by_tutorial(2))
        rows.append(row)
    pool.shutdown()
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv")
    args = parser.parse_args()
    cores = cpu_count()
    torch.set_num_threads(cores)
    rounds = measure(args.rounds, cores)
    median = {name: statistics.median(values) for name, values in rounds.items()}
    share = 3 * conv_flops() * median["sweep (images/s)"] / median["peak (FLOP/s)"]  # backward: twice the forward
    ratio = median["sweep (images/s)"] / median["tutorial (images/s)"]
    print(rounds.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    print(f"sweep / convolution peak of {cores} processes: {share:.2f} (goal: at least 0.55)")
    print(f"sweep / tutorial's loop: {ratio:.2f} (goal: at least 2)")
    if args.csv:
        pd.DataFrame([{"share of peak": share, "sweep / tutorial": ratio}]).to_csv(args.csv, index=False)


if __name__ == "__main__":
    main()
