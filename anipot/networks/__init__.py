"""Atomic networks, self energies and the short-range repulsion."""
