"""Checks of how right a model is."""
