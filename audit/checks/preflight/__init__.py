"""Checks of the model itself, before any number about it is believed."""
