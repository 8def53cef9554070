"""i-RevNets: classifiers that can be run backwards, with a training step that stores no activations."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialkit.models.reversible import Block, Streams, halves, on_grid, recomputed, to_channels, to_pixels

__all__ = ["IRevNet", "irevnet_imagenet"]


def irevnet_imagenet(architecture: str, *, kernels: Sequence[int] = (1, 3, 1), **options) -> "IRevNet":
    """The source's networks for 1000 classes and 224 x 224 pixels: (a) is injective, (b) bijective.

    Built under ``torch.device("meta")``, they hold no numbers and cost no memory. With kernels 1-3-1, (a) has
    180,999,016 parameters and (b) 29,201,092, the 181 M and 29 M that are printed; the released (b) has kernels 3-3-3
    and 125,120,356. The widths of (a) are per stream, twice the printed ones: only so the printed count comes out.

    Args:
        architecture: "a" or "b".
        kernels: Sides of the three kernels of a block.
        **options: What else `IRevNet` takes.

    Raises:
        ValueError: If the architecture is neither.

    References:
        Thesis of J.-H. Jacobsen, section 6.3.2 and Table 9.
    """
    if architecture == "a":
        layout = {"blocks": (4, 4, 6, 4), "strides": (1, 2, 2, 2), "downsampling": 4, "width_per_stream": 96}
    elif architecture == "b":
        layout = {"blocks": (6, 16, 72, 6), "strides": (2, 2, 2, 2), "downsampling": 2}
    else:
        raise ValueError(f"architecture must be 'a' or 'b', got {architecture!r}")
    return IRevNet((3, 224, 224), 1000, kernels=kernels, **{**layout, **options})


class IRevNet(nn.Module):
    """A network whose representation holds all of the image: two streams of channels, each added to by the other.

    The image is brought to fewer pixels and more channels, which are cut into two halves. Block j maps::

        (x1, x2) -> (S x2, S x1 + F(x2)),   inverted by   x2 = S^-1 y1,  x1 = S^-1 (y2 - F(x2))

    with S the identity, or s x s pixels becoming s^2 times the channels, and F three convolutions, the first two a
    quarter as wide, each after a batch normalisation and a ReLU (the first of all without). Convolutions have no
    biases. A stride lies on the first kernel of more than one pixel. The head normalises, averages over pixels, and
    puts a ReLU before the linear layer.

    *Bijective* is a network without ``width_per_stream``; a wider one appends channels to the image and is *injective*:
    `inverse` is then a left inverse. Appended zeros are a trap. The stream that starts as zeros is constant, the
    running variances of the first block go to zero, and the inverse, which finds that stream as round-off instead of
    zeros, sees it multiplied by 1 / sqrt(epsilon) at each of its normalisations. Three remedies: a larger ``epsilon``,
    ``added="copies"``, or ``exact`` streams, which the inverse finds without round-off.

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of logits.
        blocks: Blocks of each stage.
        strides: Stride of the first block of each stage; a stride s multiplies the channels by s^2.
        width_per_stream: Channels of each stream before the first block; by default what the image has.
        kernels: Sides of a block's three kernels, odd; (1, 3, 1) in the text, (3, 3, 3) in the released code.
        downsampling: Side of the squares of pixels that become channels before the first block.
        epsilon: What normalisations add to the variance.
        added: What a wider network appends to the image: "zeros", or "copies" of its channels in turn.
        exact: Whether the streams are float64 on a grid of 2^-32, for sums below 2^20. No addition rounds then, so
            that going backwards meets the same bits, as long as F gives the same for the same batch.
        recompute: Whether a training step stores no activations; see `encode`.
        relu_first: Whether the head averages after its ReLU, as the released code does, instead of before.
        logits_only: Whether `forward` returns the logits alone, as `fit`, `trained` and the measures expect.
        seed: Seed of the initial weights, which are torch's own.

    Raises:
        ValueError: If counts do not fit each other, the image is not divisible, or a name is unknown.

    References:
        Thesis of J.-H. Jacobsen, section 6.3, eq. 39. Order of channels in S, no first normalisation, and
        widths of the convolutions as in the authors' code; the text's "second layer has four times fewer
        channels" would be another network, with other counts than printed.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        blocks: Sequence[int] = (6, 6, 6),
        *,
        strides: Sequence[int] = (1, 2, 2),
        width_per_stream: int | None = None,
        kernels: Sequence[int] = (1, 3, 1),
        downsampling: int = 2,
        epsilon: float = 1e-5,
        added: str = "zeros",
        exact: bool = False,
        recompute: bool = False,
        relu_first: bool = False,
        logits_only: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        _check(image_shape, classes, blocks, strides, kernels, downsampling, epsilon, added)
        self.channels = image_shape[0] * downsampling**2
        width = self.channels // 2 if width_per_stream is None else width_per_stream
        if 2 * width < self.channels:
            raise ValueError(
                f"two streams of {width} cannot hold {self.channels} channels: raise width_per_stream or downsampling"
            )
        self.image_shape, self.width, self.downsampling, self.added = tuple(image_shape), width, downsampling, added
        self.exact, self.recompute, self.relu_first, self.logits_only = exact, recompute, relu_first, logits_only
        if recompute and added == "zeros" and not (exact or self.bijective):
            raise ValueError("recompute loses appended zeros to round-off: take exact=True or added='copies'")
        self.blocks = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for count, first in zip(blocks, strides, strict=True):
                for stride in [first] + [1] * (count - 1):
                    self.blocks.append(Block(width, stride, kernels, epsilon, exact, first=not self.blocks))
                    width *= stride**2
            self.norm = nn.BatchNorm2d(2 * width, eps=epsilon)
            self.classifier = nn.Linear(2 * width, classes)

    @property
    def bijective(self) -> bool:
        """Whether nothing is appended to the image."""
        return 2 * self.width == self.channels

    def forward(self, images: Tensor) -> Tensor | Streams:
        """Logits, N x classes, and the representation as `encode` gives it; or only the logits, see ``logits_only``."""
        z = self.encode(images)
        logits = self.classify(z)
        return logits if self.logits_only else (logits, z)

    def encode(self, images: Tensor) -> Tensor:
        """The representation, N x C x H x W, as large as the image (larger in an injective network).

        With ``recompute``, only this result is kept for the backward pass, which finds the input of each block from its
        output and computes the block again, without moving the running statistics a second time. With ``exact``
        the gradients have the bits of a stored pass. Without, inputs come back with round-off, and a ReLU whose input
        changes its sign changes a gradient by far more.
        """
        if self.recompute and torch.is_grad_enabled():
            return torch.cat(recomputed(self.blocks, self._split(images)), dim=1)
        streams = self._split(images)
        for block in self.blocks:
            streams = block(*streams)
        return torch.cat(streams, dim=1)

    def classify(self, z: Tensor) -> Tensor:
        """Logits, N x classes, of representations."""
        z = self.norm(z.to(self.classifier.weight.dtype))
        z = z.relu().mean(dim=(2, 3)) if self.relu_first else z.mean(dim=(2, 3)).relu()
        return self.classifier(z)

    def path(self, images: Tensor) -> Iterator[Tensor]:
        """What enters the first block, then what each block puts out; both streams, N x C_j x H_j x W_j."""
        streams = self._split(images)
        yield torch.cat(streams, dim=1)
        for block in self.blocks:
            streams = block(*streams)
            yield torch.cat(streams, dim=1)

    def inverse(self, z: Tensor) -> Tensor:
        """The images, N x C x H x W, of representations; exact but for round-off.

        Raises:
            ValueError: In training mode, whose batch statistics an inverse cannot know.
        """
        for x in self.inverse_path(z):  # noqa: B007, its last is what entered the first block
            pass
        return self._merge(x).to(self.classifier.weight.dtype)

    def inverse_path(self, z: Tensor) -> Iterator[Tensor]:
        """What `path` yields, found from its end, last first.

        Raises:
            ValueError: In training mode.
        """
        if self.training:
            raise ValueError("an inverse needs the running statistics: call eval() on the network first")
        streams = halves(z)
        yield z
        for block in reversed(self.blocks):
            streams = cast(Block, block).inverse(*streams)
            yield torch.cat(streams, dim=1)

    def _split(self, images: Tensor) -> Streams:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images must be N x {' x '.join(map(str, self.image_shape))}, got {tuple(images.shape)}")
        x, missing = to_channels(images, self.downsampling), 2 * self.width - self.channels
        if self.added == "copies" and missing:
            x = x[:, torch.arange(2 * self.width, device=x.device) % self.channels]
        elif missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        return halves(on_grid(x) if self.exact else x)

    def _merge(self, x: Tensor) -> Tensor:
        """The image in what enters the first block: of copies their mean, which is the pseudo-inverse."""
        if self.added == "zeros":
            return to_pixels(x[:, : self.channels], self.downsampling)
        means = [x[:, c :: self.channels].mean(dim=1) for c in range(self.channels)]
        return to_pixels(torch.stack(means, dim=1), self.downsampling)


def _check(image_shape, classes, blocks, strides, kernels, downsampling, epsilon, added) -> None:
    if len(image_shape) != 3 or min(*image_shape, classes, downsampling, *blocks, *strides) < 1:
        raise ValueError(
            f"counts must be at least 1, image_shape three of them; got {image_shape}, {blocks}, {strides}"
        )
    if len(blocks) != len(strides):
        raise ValueError(f"blocks and strides must be of one length, got {blocks} and {strides}")
    if len(kernels) != 3 or any(k < 1 or k % 2 == 0 for k in kernels):
        raise ValueError(f"kernels must be three odd numbers, got {kernels}")
    factor = downsampling * math.prod(strides)
    if image_shape[1] % factor or image_shape[2] % factor:
        raise ValueError(f"rows and columns must be multiples of {factor}, got {image_shape[1]} and {image_shape[2]}")
    if math.prod(strides) > 1 and max(kernels) == 1:
        raise ValueError("kernels of one pixel cannot have a stride: take (1, 3, 1)")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if added not in ("zeros", "copies"):
        raise ValueError(f"added must be 'zeros' or 'copies', got {added!r}")
