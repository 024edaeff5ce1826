"""egoray: pixel-level spatiotemporal grounding data and models for egocentric video, on Ray."""

__version__ = "0.1.0"
