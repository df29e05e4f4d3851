"""Plugins on their way into service: bundles and their manifests, checked before the supervisor learns of them."""
