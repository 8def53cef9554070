"""Dynamic steerable blocks: filters made of Gaussian derivatives, turned and scaled at every pixel as a network says.

Convention: kernels are seen as functions of u = (x, y), in px, x to the right and y down, and are correlated with the
image; a kernel k turned by an angle is k(R^-1 u), against the clock as seen, as in `spatialkit.deform`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialkit.theory import gaussian_atoms

__all__ = ["DynamicBlock", "Pose", "SteerableFrame", "interpolation_weights", "steering_functions"]

_POSES = ("network", "maximum", "none")
_REACH = 3.5  # half of the window of the widest Gaussian, in sigma


def steering_functions(order: int, angle: Tensor) -> list[list[Tensor]]:
    """What a turn does to the derivatives of a Gaussian of one total order n.

    Atom i has i of its n derivatives along y; with c = cos(angle) and s = sin(angle) the turned axes are x' = (c, -s),
    y' = (s, c), so that atom i turned is (c d_x - s d_y)^(n-i) (s d_x + c d_y)^i G, and entry [i][j] what stands before
    d_x^(n-j) d_y^j::

        n = 1: [[c, -s], [s, c]]        n = 2, i = 0: [c^2, -2 c s, s^2]

    Args:
        order: n.
        angle: Radians, any shape.

    Returns:
        n + 1 lists of n + 1 tensors shaped as ``angle``; trigonometric polynomials of degree n.

    References:
        Jacobsen's thesis, eq. 22 (where its printed signs are a turn by +theta with y down) and eq. 25.
    """
    c, s = angle.cos(), angle.sin()

    def entry(i: int, j: int) -> Tensor:
        total = torch.zeros_like(angle)
        for p in range(max(0, j - i), min(order - i, j) + 1):  # p of the d_y come from x', j - p from y'
            q = j - p
            sign = math.comb(order - i, p) * math.comb(i, q) * (-1) ** p
            total = total + sign * c ** (order - i - p + q) * s ** (p + i - q)
        return total

    return [[entry(i, j) for j in range(order + 1)] for i in range(order + 1)]


def interpolation_weights(sigma: Tensor, nodes: Sequence[float]) -> list[Tensor]:
    """Weights that make atoms of any width out of those of a few: Lagrange polynomials in log sigma.

    Gaussian derivatives are steerable in scale only approximately: no finite set of them holds all widths.

    Args:
        sigma: Px, any shape.
        nodes: Widths of the atoms that there are, px.
    """
    t, known = sigma.log(), [math.log(node) for node in nodes]

    def weight(j: int) -> Tensor:
        total = torch.ones_like(t)
        for k, other in enumerate(known):
            if k != j:
                total = total * (t - other) / (known[j] - other)
        return total

    return [weight(j) for j in range(len(known))]


class Pose(NamedTuple):
    """Maps of a pose, each ``(N, P, H, W)``, with P = 1 if all channels share it."""

    angle: Tensor | None  # radians against the clock; None where entries are free
    sigma: Tensor | None  # px; None with one scale
    free: Tensor | None  # (N, P, E, H, W): entries in the place of steering functions; None with these


class SteerableFrame(nn.Module):
    """Responses of an image to Gaussian derivatives, and these responses as if the filters had been turned and scaled.

    The frame holds all derivatives of the chosen total orders (2 of order 1, 3 of order 2, ...), sigma^m d^m G, on one
    window; outside the image stands its border value. Turned responses are exact, as the sampled functions turn
    exactly. Scaled ones are interpolated between Chebyshev points of log sigma: from 0.8 to 1.5 px the largest error,
    as a share of a kernel's L2 norm, is 2.3 % for order 1 and 4.4 % for order 2 with three of them, 0.11 % and 0.23 %
    with five.

    Args:
        orders: Total orders, each once, 0 to 4.
        sigma: Width, px, or smallest and largest width.
        nodes: Number of widths to interpolate between; unused with one width.

    Raises:
        ValueError: If orders repeat or are out of range, a width is under 0.5 px, or there are no two nodes.
    """

    kernels: Tensor  # float64, so that a block in float64 is exact; used in the precision of the images

    def __init__(self, orders: Sequence[int] = (1,), sigma: float | tuple[float, float] = 1.0, nodes: int = 3):
        super().__init__()
        low, high = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        if not orders or len(set(orders)) != len(orders) or not set(orders) <= set(range(5)):
            raise ValueError(f"orders must be different numbers from 0 to 4, got {tuple(orders)}")
        if not 0.5 <= low <= high < math.inf or (low < high and nodes < 2):
            raise ValueError(f"need widths of at least 0.5 px, smaller first, and 2 nodes; got {sigma} and {nodes}")
        self.orders, self.range = tuple(orders), (low, high)
        self.sigmas = _chebyshev(low, high, nodes) if low < high else (low,)
        self.atoms = [(n - i, i) for n in orders for i in range(n + 1)]  # (dx, dy)
        size = 2 * math.ceil(_REACH * high) + 1
        kernels = torch.stack([gaussian_atoms(self.atoms, width, size) for width in self.sigmas])
        self.register_buffer("kernels", kernels.flatten(0, 1)[:, None], persistent=False)  # (S K, 1, size, size)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, S, K, H, W)``: S widths, K atoms."""
        N, C, H, W = images.shape
        margin = self.kernels.shape[-1] // 2
        padded = F.pad(images, [margin] * 4, mode="replicate").view(N * C, 1, H + 2 * margin, W + 2 * margin)
        return F.conv2d(padded, self.kernels.to(padded)).view(N, C, len(self.sigmas), len(self.atoms), H, W)

    def turned(self, responses: Tensor, pose: Pose) -> Tensor:
        """Responses ``(N, C, S, K, H, W)`` of the filters in their pose, ``(N, C, K, H, W)``."""
        scaled = responses[:, :, 0]
        if pose.sigma is not None:
            weights = interpolation_weights(pose.sigma, self.sigmas)
            scaled = _weighted([weight[:, :, None] for weight in weights], responses.unbind(2))
        if pose.angle is None and pose.free is None:
            return scaled
        blocks = scaled.split([n + 1 for n in self.orders], dim=2)
        rows = [
            _weighted(row, block.unbind(2))
            for matrix, block in zip(self._matrices(pose), blocks, strict=True)
            for row in matrix
        ]
        return torch.stack(rows, dim=2)

    def _matrices(self, pose: Pose) -> list[Sequence[Sequence[Tensor]]]:
        """F, one matrix of maps for each total order."""
        if pose.angle is not None:
            return [steering_functions(n, pose.angle) for n in self.orders]
        assert pose.free is not None
        parts = pose.free.split([(n + 1) ** 2 for n in self.orders], dim=2)
        return [[row.unbind(2) for row in part.split(n + 1, dim=2)] for n, part in zip(self.orders, parts, strict=True)]


def _weighted(weights: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total


def _chebyshev(low: float, high: float, n: int) -> tuple[float, ...]:
    """n widths, ascending: Chebyshev points of the logarithm, where interpolation errs least."""
    middle, half = math.log(low * high) / 2, math.log(high / low) / 2
    return tuple(math.exp(middle - half * math.cos(math.pi * (2 * k + 1) / (2 * n))) for k in range(n))


class DynamicBlock(nn.Module):
    """H(x) = W F(pose(x)) Phi(x): a frame, a network that says the pose, steering functions, and a 1 x 1 convolution.

    1. Phi: each channel's responses to Gaussian derivatives (`SteerableFrame`).
    2. The pose network: ``layers`` convolutions of ``context x context`` px on all responses, each followed by tanh.
       Its last layer has one output for the angle, times pi, and with two widths one for log sigma, over their range.
    3. F: the steering functions of the angle, as activations, multiply the responses: these are then the responses of
       filters turned and scaled, at every pixel in another way.
    4. W: weights of the canonical filters, in all channels and atoms.

    Variants for comparison: ``pose="maximum"`` takes, at each pixel and for each output, the largest response over
    ``angles`` turns (no pose network; one width); ``pose="none"`` is the static W Phi(x); with ``steering=False`` the
    network's outputs stand in the place of the steering functions, one for each entry of F, bounded by 1.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        orders, sigma, nodes: Of the frame.
        pose: ``"network"``, ``"maximum"`` or ``"none"``.
        steering: Whether steering functions are applied.
        shared: One pose for all channels of the input, or one for each.
        hidden: Channels of the pose network's inner layers.
        layers: Convolutions of the pose network.
        context: Side of their kernels, px, odd; 1 sees no neighbours but those of the frame.
        angles: Turns, equally spaced, of the maximum.
        seed: Of the initial weights.

    Raises:
        ValueError: If counts are below 1, the context is even, a choice is unknown, or the frame's arguments are wrong.

    References:
        Jacobsen's thesis, section 4.3.1, eq. 29, and section 4.4.2: 8 to 16 units, three layers, tanh, sigma from 0.8
        to 1.5. It has softplus or ReLU for scales; the tanh here keeps widths in the range where interpolation holds.
        Size of kernels, padding and the factor pi are ours.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        orders: Sequence[int] = (1,),
        sigma: float | tuple[float, float] = 1.0,
        nodes: int = 3,
        pose: str = "network",
        steering: bool = True,
        shared: bool = True,
        hidden: int = 16,
        layers: int = 3,
        context: int = 3,
        angles: int = 16,
        seed: int = 0,
    ):
        super().__init__()
        if min(in_channels, out_channels, hidden, layers, context, angles) < 1 or context % 2 == 0:
            raise ValueError(
                f"counts must be at least 1 and the context odd; got {in_channels=}, {out_channels=}, {hidden=}, "
                f"{layers=}, {context=}, {angles=}"
            )
        if pose not in _POSES:
            raise ValueError(f"pose must be one of {', '.join(_POSES)}; got {pose!r}")
        self.frame = SteerableFrame(orders, sigma, nodes)
        if pose != "network" and len(self.frame.sigmas) > 1:
            raise ValueError(f"without a pose network give one width, got {sigma}")
        self.kind, self.steering, self.angles = pose, steering, angles
        self.n_poses = 1 if shared else in_channels
        self.n_entries = 1 if steering else sum((n + 1) ** 2 for n in orders)
        self.reach = 1 + layers * (context - 1)  # px of the frame's responses that a pose depends on
        responses = in_channels * len(self.frame.sigmas) * len(self.frame.atoms)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.weights = nn.Conv2d(in_channels * len(self.frame.atoms), out_channels, 1)
            per_pose = self.n_entries + (len(self.frame.sigmas) > 1)
            widths = [responses, *[hidden] * (layers - 1), self.n_poses * per_pose]
            self.pose_network = _pose_network(widths, context) if pose == "network" else None

    def poses(self, images: Tensor) -> Pose:
        """The pose at each pixel of images ``(N, C, H, W)``; all None without a pose network."""
        return self._pose(self.frame(images))

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out_channels, H, W)``."""
        responses = self.frame(images)
        if self.kind == "maximum":
            return torch.stack([self._at(responses, 2 * math.pi * k / self.angles) for k in range(self.angles)]).amax(0)
        return self.weights(self.frame.turned(responses, self._pose(responses)).flatten(1, 2))

    def _at(self, responses: Tensor, angle: float) -> Tensor:
        """What the canonical filters answer if all are turned by one angle."""
        pose = Pose(responses.new_full((1, 1, 1, 1), angle), None, None)
        return self.weights(self.frame.turned(responses, pose).flatten(1, 2))

    def _pose(self, responses: Tensor) -> Pose:
        if self.pose_network is None:
            return Pose(None, None, None)
        N, *_, H, W = responses.shape
        maps = self.pose_network(responses.flatten(1, 3)).view(N, self.n_poses, -1, H, W)
        sigma = None
        if len(self.frame.sigmas) > 1:
            low, high = map(math.log, self.frame.range)
            sigma = ((low + high) / 2 + (high - low) / 2 * maps[:, :, -1]).exp()
        if self.steering:
            return Pose(math.pi * maps[:, :, 0], sigma, None)
        return Pose(None, sigma, maps[:, :, : self.n_entries])


def _pose_network(widths: Sequence[int], context: int) -> nn.Sequential:
    """Convolutions that keep the size (the border value outside), each followed by tanh."""
    layers: list[nn.Module] = []
    for below, above in pairwise(widths):
        layers += [nn.Conv2d(below, above, context, padding="same", padding_mode="replicate"), nn.Tanh()]
    return nn.Sequential(*layers)
