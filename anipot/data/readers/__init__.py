"""Readers of structure and data files, one file a format."""
