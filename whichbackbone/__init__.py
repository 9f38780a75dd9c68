"""which-backbone: every claim about image backbones, tested by code on the reader's own machine."""

__version__ = "0.2.0"
