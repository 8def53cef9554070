"""Networks, one file per family, and a zoo of known architectures."""

from spatialkit.models.attributes import AttributeCNN
from spatialkit.models.basis import BasisConv2d, BasisConv3d
from spatialkit.models.channels import shuffle_channels
from spatialkit.models.circular import ACTIVATIONS, CircularCNN
from spatialkit.models.dynamic import DynamicBlock, Pose, SteerableFrame
from spatialkit.models.framed import framed_densenet, framed_resnet
from spatialkit.models.irevnet import IRevNet, irevnet_imagenet
from spatialkit.models.plain import PlainCNN
from spatialkit.models.rfnn import RFNN, NiN, equal_widths, rfnin, rfnin_bases
from spatialkit.models.stn import STN, same_size
from spatialkit.models.transformer import SpatialTransformer, affine_matrix, angle_scale_shift, compose, resample
from spatialkit.models.vgg_style import DOWNSAMPLINGS, VGGStyle
from spatialkit.models.weights import pretrained
from spatialkit.models.zoo import ARCHITECTURES, build

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "DOWNSAMPLINGS",
    "RFNN",
    "STN",
    "AttributeCNN",
    "BasisConv2d",
    "BasisConv3d",
    "CircularCNN",
    "DynamicBlock",
    "IRevNet",
    "NiN",
    "PlainCNN",
    "Pose",
    "SpatialTransformer",
    "SteerableFrame",
    "VGGStyle",
    "affine_matrix",
    "angle_scale_shift",
    "build",
    "compose",
    "equal_widths",
    "framed_densenet",
    "framed_resnet",
    "irevnet_imagenet",
    "pretrained",
    "resample",
    "rfnin",
    "rfnin_bases",
    "same_size",
    "shuffle_channels",
]
