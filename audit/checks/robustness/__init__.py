"""Checks of how a model breaks."""
