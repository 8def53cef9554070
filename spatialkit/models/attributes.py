"""Hierarchical attribute networks: convolutions along space and along the attributes that earlier filters made."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from spatialkit.models.attribute_layers import ColourLayer, FactoredLayer, WindowLayer

__all__ = ["AttributeCNN"]

_DEPTH = 11


class AttributeCNN(nn.Module):
    """Eleven layers on arrays x_j(u, v_(j-2), v_(j-1), v_j): the index of a layer's filters is an axis of the next.

    A layer sums the array below over its oldest attribute, and convolves with one filter per value of the new one::

        x_j(u, v_(j-2), v_(j-1), v_j) = ELU(N(sum_q g_(v_j, q) * N'(h_q * sum_(v_(j-3)) x_(j-1))))

    h_q is 3 x 3 and acts along space; g acts along v_(j-2) and v_(j-1), and subsamples both; N and N' are batch
    normalisations over all but v_j and q, N with a scale and a shift. With ``plus`` an ELU follows N', which then has
    them too. The first two layers have no such factors: 3 x 3 on colours, then 3 x 3 times a window along v_1. The last
    has a filter for each class, and logits are its averages over space and all older attributes.

    With ``padding="circular"``, no layer ``halved`` and ``attribute_stride=1``, a translation of x_j along space or an
    attribute is one of the arrays above, and leaves the logits as they are (Proposition 5.3.1; the source omits
    subsampling there for simplicity, but it breaks the proposition).

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of logits.
        plus: Whether an ELU stands between h and g.
        values: Values K of an attribute; subsampled to K / 2 when one layer old, to K / 4 when two.
        factors: Factors Q, the separable filters that are summed.
        window: Sides of g along v_(j-2) and v_(j-1), odd; the second is the second layer's along v_1.
        padding: "zeros" or "circular", along space and attributes.
        first_stride: Spatial subsampling of the first layer.
        halved: Layers after the first that subsample space by 2.
        attribute_stride: Subsampling of attributes, 1 or 2.
        dense: Whether the last layer has ``values`` filters like the others, and a linear layer follows.
        average: Whether logits are averages; if not, sums.
        seed: Seed of the initial weights, N(0, 0.05^2).

    Attributes:
        layers: The eleven layers; layer j makes x_j.
        free_parameters: Numbers that define the convolutions, as the source counts them: no biases, no normalisations.
            Without ``plus`` these are the sums of products of g and h, of which there are fewer numbers than in g and
            h: 97,650 for 10 classes, 344,640 with ``plus``; 250,308 and 887,424 for 100 classes, windows of 11 x 11.

    Raises:
        ValueError: If counts do not fit each other or a name is unknown.

    References:
        Thesis of J.-H. Jacobsen, chapter 5, eqs. 32 to 37, with 7 x 11 windows for CIFAR-10, 11 x 11 for CIFAR-100.
        The text says neither how h is initialised nor whether a normalisation N follows g, here as in the released
        code; it prints sums for logits, which are thousands of terms and saturate the softmax, where the code takes
        averages. The code's other choices are those of `AttributeCNN.released`. A layer that subsamples space
        normalises by the statistics of the places that it keeps, as in the code.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        plus: bool = False,
        values: int = 16,
        factors: int = 32,
        window: tuple[int, int] = (7, 11),
        padding: str = "zeros",
        first_stride: int = 1,
        halved: Sequence[int] = (5, 9),
        attribute_stride: int = 2,
        dense: bool = False,
        average: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        _check(image_shape, classes, values, factors, window, padding, first_stride, halved, attribute_stride)
        self.image_shape, self.plus, self.average = tuple(image_shape), plus, average
        circular, step = padding == "circular", attribute_stride
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[ColourLayer | WindowLayer | FactoredLayer]
            layers = [ColourLayer(image_shape[0], values, first_stride, circular)]
            for j in range(2, _DEPTH + 1):
                filters, stride = classes if j == _DEPTH and not dense else values, 2 if j in halved else 1
                if j == 2:
                    layers.append(WindowLayer(filters, window[1], stride=stride, step=step, circular=circular))
                else:
                    layers.append(
                        FactoredLayer(factors, filters, window, plus, stride=stride, step=step, circular=circular)
                    )
            self.layers = nn.ModuleList(layers)
            self.free_parameters = sum(layer.free_parameters for layer in layers)
            self.classifier = nn.Linear(values, classes) if dense else nn.Identity()

    @classmethod
    def released(cls, image_shape: Sequence[int], classes: int, **options) -> "AttributeCNN":
        """The network of the authors' code: with ``plus``, space halved one layer earlier, and a dense layer.

        With 10 classes it has 360,522 parameters, normalisations included.
        """
        return cls(image_shape, classes, **{"plus": True, "dense": True, "halved": (4, 8), **options})

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        return self.resume(images, 0)

    def arrays(self, images: Tensor) -> Iterator[Tensor]:
        """x_1 to x_11: N x H x W x v_1, then N x H x W x v_1 x v_2, then N x H x W x v_(j-2) x v_(j-1) x v_j."""
        x = self._checked(images)
        for layer in self.layers:
            x = layer(x)
            yield x

    def resume(self, x: Tensor, j: int) -> Tensor:
        """Logits, N x classes, of an array x_j as `arrays` yields it, or of images as x_0."""
        if not 0 <= j <= _DEPTH:
            raise ValueError(f"j must be one of 0 to {_DEPTH}, got {j}")
        if j == 0:
            x = self._checked(x)
        for layer in self.layers[j:]:
            x = layer(x)
        x = x.flatten(1, -2)  # N, places x attributes, v_11
        return self.classifier(x.mean(dim=1) if self.average else x.sum(dim=1))

    def _checked(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images must be N x {' x '.join(map(str, self.image_shape))}, got {tuple(images.shape)}")
        return images


def _check(image_shape, classes, values, factors, window, padding, first_stride, halved, attribute_stride) -> None:
    if len(image_shape) != 3 or min(*image_shape, classes, values, factors, first_stride) < 1:
        raise ValueError(
            f"counts must be at least 1, image_shape three of them; got {image_shape}, {classes}, {values}"
        )
    if len(window) != 2 or any(side < 1 or side % 2 == 0 for side in window):
        raise ValueError(f"window must be two odd numbers, got {window}")
    if padding not in ("zeros", "circular"):
        raise ValueError(f"padding must be 'zeros' or 'circular', got {padding!r}")
    if any(not 2 <= j <= _DEPTH for j in halved):
        raise ValueError(f"halved must be layers from 2 to {_DEPTH}, got {tuple(halved)}")
    if attribute_stride not in (1, 2):
        raise ValueError(f"attribute_stride must be 1 or 2, got {attribute_stride}")
    if attribute_stride == 2 and values % 4:
        raise ValueError(f"values must be a multiple of 4, or attribute_stride 1; got {values}")
    older = values // attribute_stride
    if padding == "circular" and (window[0] // 2 > older or window[1] // 2 > values):
        raise ValueError(f"circular padding needs windows that reach no further than {older} and {values} values")
