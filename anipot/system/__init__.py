"""Files, downloads, devices and processes: what the package needs of the machine."""
