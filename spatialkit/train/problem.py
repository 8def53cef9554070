"""What a network is to learn, as one object."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spatialkit.train.predicting import predict

__all__ = ["Problem", "noised"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A task with its data.

    Attributes:
        key: Names the problem for good by its arguments and data.
        code: Module -> fingerprint of what made it.
        train: Images, N x C x H x W floats, and labels, N.
        validation: The same for choices, such as the best epoch; never the test set.
        test: The same, for the number to report.
        outputs: Of the network; with one output, its sign is the answer.
        loss: Outputs and labels -> scalar.
        augment: Batch of training images and generator -> batch; None leaves them as they are.
    """

    key: str
    code: dict[str, str]
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def error(self, model: nn.Module, part: str = "test") -> float:
        """Share of images of a part (``"train"``, ``"validation"``, ``"test"``) with a wrong answer, from 0 to 1."""
        images, labels = getattr(self, part)
        outputs = predict(model, images)
        said = outputs.argmax(dim=1) if self.outputs > 1 else outputs[:, 0].sign()
        return float((said != labels.cpu()).float().mean())


def noised(images: Tensor, norm: float, seed: int) -> Tensor:
    """Images plus white normal noise of root mean square norm ``norm`` per image.

    Raises:
        ValueError: If the norm is negative.
    """
    if norm < 0:
        raise ValueError(f"the norm of noise must be at least 0, got {norm}")
    if norm == 0:
        return images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + norm / images[0].numel() ** 0.5 * noise
