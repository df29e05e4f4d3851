"""Plugins as they come: bundles and their manifests, checked before the pool hears of them."""
