"""Small mechanisms that several packages need, each of them once. Standard library and msgspec only."""
