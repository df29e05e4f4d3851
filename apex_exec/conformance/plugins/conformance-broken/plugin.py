"""It cannot be loaded, which the case of BOOT_FAILED is about."""

raise RuntimeError("this plugin does not load")
