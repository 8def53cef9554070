"""Statistics for batch normalisation without training."""

from __future__ import annotations

from torch import Tensor, nn

from spatialkit.measure.calls import in_batches

__all__ = ["calibrate"]


def calibrate(model: nn.Module, images: Tensor, batch: int = 100) -> None:
    """Give every batch normalisation of a network the statistics of the images, in place, in one pass.

    A network as it was built has running means of 0 and variances of 1: in evaluation mode its layers then have scales
    that no training would leave, and so other sensitivities. Here each normalisation keeps the mean over batches of
    their means and of their variances, each batch normalised by its own on the way; all else is in evaluation mode,
    and no weight changes.

    Args:
        model: Any network; it stays in the mode it is in.
        images: What it takes, first axis images; some hundred are enough.
        batch: Images at a time, at least 2; all batches are equally large up to one image.

    Raises:
        ValueError: If there are under 2 images or ``batch`` is under 2, or the network has no batch normalisation with
            running statistics.
    """
    normalisations = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    layers = {m: m.running_mean.device for m in normalisations if m.running_mean is not None}
    if not layers:
        raise ValueError("the network has no batch normalisation with running statistics: nothing to calibrate")
    if not isinstance(images, Tensor) or images.ndim == 0 or len(images) < 2 or batch < 2:
        raise ValueError("statistics over a batch need a tensor with at least 2 images, and batches of at least 2")
    momenta = [m.momentum for m in layers]
    with in_batches(model, images, len(images)):  # for the modes, and for what it checks
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.training = True
        device = next(iter(layers.values()))
        try:
            for part in images.tensor_split(-(-len(images) // batch)):
                model(part.to(device, copy=True))
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    if unused := [m for m in layers if not m.num_batches_tracked]:
        raise ValueError(f"{len(unused)} batch normalisations did not run for these images in evaluation mode")
