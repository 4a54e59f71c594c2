"""Translations, one folder per language."""
