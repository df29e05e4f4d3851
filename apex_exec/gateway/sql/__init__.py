"""SQL of plugins, read and written anew."""
