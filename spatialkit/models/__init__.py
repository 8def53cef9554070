"""Networks, one file per family, and a zoo of known architectures."""

from spatialkit.models.attributes import AttributeCNN
from spatialkit.models.baselines import all_cnn, lin_nin, resnet20
from spatialkit.models.basis import BasisConv2d, BasisConv3d
from spatialkit.models.channels import shuffle_channels
from spatialkit.models.circular import ACTIVATIONS, CircularCNN
from spatialkit.models.dynamic import DynamicBlock, Pose, SteerableFrame
from spatialkit.models.framed import framed_densenet, framed_resnet
from spatialkit.models.irevnet import IRevNet, irevnet_imagenet
from spatialkit.models.plain import PlainCNN
from spatialkit.models.rfnn import RFNN, NiN, equal_widths, rfnin, rfnin_bases
from spatialkit.models.scattering import Scattering, morlet
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
    "Scattering",
    "SpatialTransformer",
    "SteerableFrame",
    "VGGStyle",
    "affine_matrix",
    "all_cnn",
    "angle_scale_shift",
    "build",
    "compose",
    "equal_widths",
    "framed_densenet",
    "framed_resnet",
    "irevnet_imagenet",
    "lin_nin",
    "morlet",
    "pretrained",
    "resample",
    "resnet20",
    "rfnin",
    "rfnin_bases",
    "same_size",
    "shuffle_channels",
]
