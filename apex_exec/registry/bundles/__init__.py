"""Bundles: manifest, files, digest, storage."""
