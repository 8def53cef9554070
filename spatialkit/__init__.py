"""spatialkit: how convolutional networks hold, use and lose spatial information.

A thin package behind a sequence of notebooks. ``data`` loads and disorders images,
``measure`` quantifies spatial information, ``models`` and ``train`` make networks,
``lab`` runs experiments and keeps their results, ``claims`` compares them with the
sources, ``plot`` draws them.
"""

__version__ = "0.1.0"
