"""Convolutions whose kernels are learned combinations of a fixed set of atoms."""

import contextlib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BasisConv2d", "BasisConv3d"]


class _BasisConv(nn.Module):
    """What both have in common; one element ``coefficients[o, i, k]`` weighs atom k between channels i and o."""

    basis: Tensor
    dims: int
    ordinary: type
    _atoms: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, basis: Tensor, *, stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0, bias: bool = True, fixed: bool = True, separable: bool = False,
    ):  # fmt: skip
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"channels must be at least 1, got {in_channels} and {out_channels}")
        _check_basis(basis, self.dims)
        if separable and not fixed:
            raise ValueError("a basis that is learned does not stay separable; give fixed=True or separable=False")
        self.in_channels, self.out_channels, self.separable = in_channels, out_channels, separable
        self.stride = _per_axis(stride, self.dims, "stride", 1)
        self.padding = self._padding(padding, basis.shape[1:])
        atoms = basis.detach().to(torch.get_default_dtype()).clone()
        if fixed:
            self.register_buffer("basis", atoms)
        else:
            self.basis = nn.Parameter(atoms)
        if separable:
            self._split()
            self.register_load_state_dict_post_hook(_split_again)
        self.coefficients = nn.Parameter(torch.empty(out_channels, in_channels, len(basis)))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def _padding(self, padding: int | str | Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
        if padding == "same":
            if max(self.stride) > 1 or any(n % 2 == 0 for n in size):
                raise ValueError(f'padding "same" needs stride 1 and odd sides, got {self.stride} and {tuple(size)}')
            return tuple(n // 2 for n in size)
        return _per_axis(padding, self.dims, "padding", 0)

    def reset_parameters(self) -> None:
        """Coefficients from N(0, 2 / (C_in sum |atom|^2)), biases 0.

        The kernels then have the expected square norm of He's normal initialisation, whatever the set: frames are
        compared at equal trace of their frame operator. With pixels this is He's initialisation itself.
        """
        trace = float(self.basis.detach().double().square().sum())
        nn.init.normal_(self.coefficients, std=math.sqrt(2 / (self.in_channels * trace)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def kernel(self) -> Tensor:
        """The effective kernels, ``(C_out, C_in, kH, kW)`` (``kD`` before ``kH``); differentiable."""
        with _without_autocast(self.coefficients.device.type):  # rounded once, in the convolution
            flat = self.coefficients.flatten(0, 1) @ self.basis.flatten(1)
        return flat.view(*self.coefficients.shape[:2], *self.basis.shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps, ``(N, C_out, H', W')`` (``D'`` before ``H'``), for ``(N, C_in, H, W)``."""
        if self.separable:
            return self._by_axis(images)
        convolve = F.conv2d if self.dims == 2 else F.conv3d
        return convolve(images, self.kernel, self.bias, self.stride, self.padding)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """An ordinary convolution with the same output: the network rewritten in pixels."""
        kernel = self.kernel
        plain = self.ordinary(
            self.in_channels, self.out_channels, kernel.shape[2:], self.stride, self.padding,
            bias=self.bias is not None, device=kernel.device, dtype=kernel.dtype,
        )  # fmt: skip
        plain.weight.copy_(kernel)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        words = f"{self.in_channels}, {self.out_channels}, atoms={tuple(self.basis.shape)}, stride={self.stride}"
        words += f", padding={self.padding}" + ("" if self.bias is not None else ", bias=False")
        return words + (", separable=True" if self.separable else "")

    def _split(self) -> None:
        """Buffers for `_by_axis`: the last axis first, what is shared between atoms convolved once.

        Stage s has profiles ``(n_s, side)``, one for each distinct tail of the atoms' factors, and says of each which
        tail of the stage before it continues.
        """
        factors = _factors(self.basis.detach())  # per axis: distinct profiles, and which of them each atom has
        tails: list[tuple[int, ...]] = [()] * len(self.basis)
        known: list[tuple[int, ...]] = [()]
        for stage, axis in enumerate(reversed(range(self.dims))):
            profiles, which = factors[axis]
            tails = [(*tail, int(i)) for tail, i in zip(tails, which, strict=True)]
            new = sorted(set(tails))
            self._keep(f"_source{stage}", torch.tensor([known.index(t[:-1]) for t in new]))
            self._keep(f"_taps{stage}", profiles[[t[-1] for t in new]].to(self.basis.dtype))
            known = new
        self._keep("_atoms", torch.tensor([known.index(t) for t in tails]))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(self.basis.device), persistent=False)

    def _by_axis(self, images: Tensor) -> Tensor:
        """Convolve along one axis after the other, then combine; for product atoms, whose sides may be large."""
        N, C = images.shape[:2]
        maps = images.flatten(0, 1).unsqueeze(1)  # (N C, 1, ...): every channel meets the same atoms
        convolve = F.conv2d if self.dims == 2 else F.conv3d
        for stage, axis in enumerate(reversed(range(self.dims))):
            taps, source = getattr(self, f"_taps{stage}"), getattr(self, f"_source{stage}")
            only = lambda value, other, a=axis: [value if i == a else other for i in range(self.dims)]  # noqa: E731
            weight = taps.view(len(taps), 1, *only(taps.shape[1], 1))
            stride, padding = only(self.stride[axis], 1), only(self.padding[axis], 0)
            maps = convolve(maps[:, source], weight, None, stride, padding, groups=len(taps))
        maps = maps[:, self._atoms].unflatten(0, (N, C)).flatten(1, 2)  # (N, C K, ...)
        mixing = self.coefficients.flatten(1).view(self.out_channels, -1, *[1] * self.dims)
        return convolve(maps, mixing, self.bias)


class BasisConv2d(_BasisConv):
    """A convolution with ``kernel[o, i] = sum_k coefficients[o, i, k] basis[k]``: any set of atoms, learned weights.

    The kernel is composed first and then convolved with, which equals convolving with every atom and combining the
    maps by a 1 x 1 convolution, and is faster (benchmarks/basis.py). Like torch's convolutions it correlates.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        basis: Atoms, ``(K, kH, kW)``, kept in torch's default dtype; see `spatialkit.theory` for some sets.
        stride: px, one number or one per axis (rows, columns).
        padding: Zeros on each side, px, one number or one per axis, or "same".
        bias: Whether there is one per output channel.
        fixed: Whether the atoms stay as they are, a buffer; otherwise they are learned too, shared by all channels.
        separable: Whether to convolve along one axis after the other and combine the maps then. For atoms that are
            products of profiles with large sides, and few input channels.

    Attributes:
        basis: The atoms, ``(K, kH, kW)``.
        coefficients: ``(C_out, C_in, K)``; their initial values do not depend on the scale of the set, see
            `reset_parameters`.
        bias: ``(C_out,)`` or None.
        kernel: The effective kernels.

    Raises:
        ValueError: If a count, the stride or the padding is too small or does not fit, the basis has another number of
            axes, is empty, 0 or not finite, or is to be separable and is not.

    References:
        Jacobsen's thesis, eqs. 23 and 24; its networks start from other weights (normal or uniform, not scaled).
    """

    dims, ordinary = 2, nn.Conv2d


class BasisConv3d(_BasisConv):
    """`BasisConv2d` with a third axis: atoms ``(K, kD, kH, kW)``, images ``(N, C, D, H, W)``.

    With wide atoms, a first layer on one channel is best ``separable``; later layers, with many channels, are not.

    Raises:
        ValueError: As `BasisConv2d`.
    """

    dims, ordinary = 3, nn.Conv3d


def _without_autocast(device: str) -> contextlib.AbstractContextManager:
    known = torch.amp.is_autocast_available(device)  # not on "meta"
    return torch.autocast(device, enabled=False) if known else contextlib.nullcontext()


def _per_axis(value: int | str | Sequence[int], dims: int, name: str, smallest: int) -> tuple[int, ...]:
    values = (value,) * dims if isinstance(value, int) else value
    if isinstance(values, str) or len(values) != dims or not all(isinstance(v, int) and v >= smallest for v in values):
        raise ValueError(f"{name} must be an integer of at least {smallest}, or {dims} of them; got {value!r}")
    return tuple(values)


def _check_basis(basis: Tensor, dims: int) -> None:
    axes = ", ".join(("kD", "kH", "kW")[-dims:])
    if not isinstance(basis, Tensor) or basis.is_complex():
        raise ValueError(f"basis must be a tensor of real numbers (K, {axes}), got {type(basis).__name__}")
    if basis.ndim != dims + 1 or not basis.numel() or not basis.isfinite().all():
        raise ValueError(f"basis must be finite numbers (K, {axes}), at least one; got {tuple(basis.shape)}")
    if not basis.any():
        raise ValueError("basis must not be 0 everywhere")


def _split_again(layer: _BasisConv, _) -> None:
    """After a state with other atoms was loaded."""
    layer._split()


def _factors(basis: Tensor) -> list[tuple[Tensor, list[int]]]:
    """Profiles whose outer products are the atoms: per axis the distinct ones, and the number of each atom's.

    Raises:
        ValueError: If an atom is no product.
    """
    near = 16 * torch.finfo(basis.dtype).eps
    axes: list[list[Tensor]] = [[] for _ in basis.shape[1:]]
    for k, atom in enumerate(basis.double()):
        peak = torch.unravel_index(atom.abs().argmax(), atom.shape)
        top = atom[peak]
        fibres = [atom[(*peak[:a], slice(None), *peak[a + 1 :])] for a in range(atom.ndim)]
        shares = [fibres[0], *(f / top if top else f for f in fibres[1:])]
        product = shares[0]
        for share in shares[1:]:
            product = product.unsqueeze(-1) * share
        if (product - atom).abs().max() > near * top.abs():
            raise ValueError(f"atom {k} is no product of profiles along the axes; give separable=False")
        for axis, share in zip(axes, shares, strict=True):
            axis.append(share)
    return [_distinct(profiles, near) for profiles in axes]


def _distinct(profiles: list[Tensor], near: float) -> tuple[Tensor, list[int]]:
    found: list[Tensor] = []
    which = []
    for profile in profiles:
        same = [i for i, f in enumerate(found) if (f - profile).abs().max() <= near * profile.abs().max()]
        if not same:
            found.append(profile)
        which.append(same[0] if same else len(found) - 1)
    return torch.stack(found), which
