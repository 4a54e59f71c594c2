"""assay: the audit a machine-learning model passes before it is released."""

__version__ = "0.1.0"
