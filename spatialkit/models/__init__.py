"""Networks, one file per family."""

from spatialkit.models.plain import PlainCNN

__all__ = ["PlainCNN"]
