"""Small mechanisms that several rooms need, each of them once. Standard library and msgspec only."""
