"""Conformers: containers, readers, checks, splits, batches and stores on disk."""
