"""The index, downloads, and entitlements."""
