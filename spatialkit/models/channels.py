"""Networks whose channels are connected otherwise, with every kernel kept."""

import copy

import torch
from torch import nn

__all__ = ["shuffle_channels"]


def shuffle_channels(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a network with the input channels of every convolution in a random order.

    One permutation per layer, the same for all of its output channels: each kernel w[c, c'] keeps its pixels and
    is applied to another channel. So pooling over space stays, and what channels have learnt to do together is lost.
    The first layer is included, biases and batch normalisations are not; a convolution with one input channel per
    group has nothing to permute.

    Args:
        model: Any network; only weights of four dimensions change.
        seed: Seed of the permutations.

    Raises:
        ValueError: If no weight has four dimensions.

    References:
        Tomasini et al. (2023), section 2, "Disentangling spatial and channel pooling"; that the input channels move,
        for all output channels alike, is in the authors' code.
    """
    shuffled = copy.deepcopy(model)
    weights = [w for w in shuffled.parameters() if w.ndim == 4]
    if not weights:
        raise ValueError("the network has no convolution over images, so no channels to shuffle")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(weight[:, torch.randperm(weight.shape[1], generator=generator).to(weight.device)])
    return shuffled
