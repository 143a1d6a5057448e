"""Saved potentials: one file a format, and ``load``, which recognises them all."""
