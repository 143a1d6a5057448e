"""Potentials: models, ensembles, and their energies, forces, stresses and Hessians."""
