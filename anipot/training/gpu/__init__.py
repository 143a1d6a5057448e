"""Updates of fixed shapes, captured as CUDA graphs."""
