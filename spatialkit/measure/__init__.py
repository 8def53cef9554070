"""Measures of the spatial information that images, feature maps and kernels hold, and of how networks respond."""

from spatialkit.measure import edges
from spatialkit.measure.alignment import Alignment, alignment_residual, best_alignment, layer_alignment
from spatialkit.measure.calibration import calibrate
from spatialkit.measure.calls import watching
from spatialkit.measure.everything import measure_all
from spatialkit.measure.filters import frequency_content, laplacian_spectrum, total_variation
from spatialkit.measure.layers import layer_orderness
from spatialkit.measure.memory import peak_bytes
from spatialkit.measure.order import orderness, orderness_of_each, two_hop_means
from spatialkit.measure.paired import paired_sensitivity
from spatialkit.measure.perturbations import Deformation, Noise, Rotation, Translation, perturbed
from spatialkit.measure.published import central_diagonal_orderness, one_sided_orderness
from spatialkit.measure.receptive import receptive_fields
from spatialkit.measure.response import sensitivity

__all__ = [
    "Alignment",
    "Deformation",
    "Noise",
    "Rotation",
    "Translation",
    "alignment_residual",
    "best_alignment",
    "calibrate",
    "central_diagonal_orderness",
    "edges",
    "frequency_content",
    "laplacian_spectrum",
    "layer_alignment",
    "layer_orderness",
    "measure_all",
    "one_sided_orderness",
    "orderness",
    "orderness_of_each",
    "paired_sensitivity",
    "peak_bytes",
    "perturbed",
    "receptive_fields",
    "sensitivity",
    "total_variation",
    "two_hop_means",
    "watching",
]
