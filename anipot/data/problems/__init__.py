"""Checks of geometries and labels."""
