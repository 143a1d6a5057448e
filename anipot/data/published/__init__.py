"""The bundled data set, and ANI-1 to download."""
