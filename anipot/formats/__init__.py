"""Saved potentials, one file a format.

``load`` tries the formats in turn: ``anipot_format`` (.safetensors), ``neurochem``,
``torchani_format`` (state dicts of TorchANI), ``notebook`` (other ``.pt`` files, with ``mlatom``).
``published`` finds or fetches potentials by name. ``state_dict`` reads ``.pt`` files.
"""
