"""The two released estimators of spatial orderness, to compare readings of eq. 6.

The paper's own code is not public; its first author's later repository (rghosh92/Distilled-BagNets)
holds two estimators that differ from each other and from eq. 6. Both are expressed anew here from
what they compute. `spatialkit.measure.order` is the measure to use.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spatialkit.measure.order import checked

__all__ = ["central_diagonal_orderness", "one_sided_orderness"]


@torch.no_grad()
def central_diagonal_orderness(images: Tensor | np.ndarray, scale: int = 1, seed: int = 0) -> float:
    """Estimator 1 (its file ``imness.py``): one random triple per image and channel.

    It departs from eq. 6 in four ways:

    * p is uniform over the central third of rows and columns, not over the image;
    * q = p + (+-1, +-1) and r = p + (+-2, +-2), all four signs independent: only diagonal neighbours,
      and q lies between p and r in one case of four;
    * the ratio of expectations is clipped to [1, 2], so that orderness stays within [0, 1];
    * where p is 1 pixel off the first row or column (4 or 5 pixels a side), r may wrap to the other side.

    Its separate list of triples for 3 x 3 kernels is left out.

    Args:
        images: Images or feature maps, shape ``(N, C, H, W)``.
        scale: Side of the averaged block, in pixels, as in `orderness`.
        seed: Of the draw of triples.

    Returns:
        No unit, in [0, 1]; nan if all near pairs and all far pairs are equal.

    Raises:
        ValueError: As `orderness`, or if under 4 x 4 pixels are left at this scale.
    """
    x = _block_means(images, scale)
    N, C, H, W = x.shape
    if min(H, W) < 4:
        raise ValueError(f"{H} x {W} pixels left at scale {scale}; this estimator needs 4 x 4")
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (N, C), generator=generator).to(x.device)

    image, channel = torch.arange(N, device=x.device)[:, None], torch.arange(C, device=x.device)

    def value(dy: Tensor | int, dx: Tensor | int) -> Tensor:
        return x[image, channel, (row + dy) % H, (column + dx) % W]  # (N, C)

    row, column = H // 3 + draw(0, H // 3), W // 3 + draw(0, W // 3)
    sign_y, sign_x, far_sign_y, far_sign_x = (2 * draw(0, 2) - 1 for _ in range(4))
    near = (value(0, 0) - value(sign_y, sign_x)).square().mean()
    far = (value(0, 0) - value(2 * far_sign_y, 2 * far_sign_x)).square().mean()
    return float((far / near).clamp(1, 2) - 1)


@torch.no_grad()
def one_sided_orderness(images: Tensor | np.ndarray, scale: int = 1, fixed: bool = False) -> float:
    """Estimator 2 (its file ``spatial_order_func.py``): all positions, pairs to the right and below only.

    It departs from eq. 6 in four ways:

    * the near pairs lie 1 pixel right, below and diagonally below right, the far pairs 2 pixels; but
      the released code takes the far pair to the right twice and the one below never (``fixed=False``);
    * each kind of pair weighs a third, near pairs over one pixel less, far pairs over two pixels less
      than a side: the two expectations are not over the same triples;
    * the ratio is taken per image and channel and then averaged, where eq. 6 is a ratio of expectations;
    * 1e-8, in squared units of ``images``, is added to both means, so that constant images have
      orderness 0 and faint ones nearly so.

    Its scales resize images with PIL, whose default filter has changed; here they are block means.

    Args:
        images: Images or feature maps, shape ``(N, C, H, W)``.
        scale: Side of the averaged block, in pixels, as in `orderness`.
        fixed: Take the far pair below, as was surely meant, in place of the doubled one.

    Returns:
        No unit; the mean over images and channels.

    Raises:
        ValueError: As `orderness`.
    """
    x = _block_means(images, scale)

    def mean_square(dy: int, dx: int, reach: int) -> Tensor:
        H, W = x.shape[-2] - reach, x.shape[-1] - reach
        return (x[..., dy : dy + H, dx : dx + W] - x[..., :H, :W]).square().mean((-2, -1))  # (N, C)

    near = (mean_square(1, 1, 1) + mean_square(0, 1, 1) + mean_square(1, 0, 1)) / 3 + 1e-8
    below = mean_square(2, 0, 2) if fixed else mean_square(0, 2, 2)
    far = (mean_square(2, 2, 2) + mean_square(0, 2, 2) + below) / 3 + 1e-8
    return float((far / near - 1).mean())


def _block_means(images: Tensor | np.ndarray, scale: int) -> Tensor:
    x = checked(images, scale).double()
    if not x.isfinite().all():
        raise ValueError("images hold nan or inf: mask or repair them first")
    return F.avg_pool2d(x, scale) if scale > 1 else x
