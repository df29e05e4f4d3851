"""Small mechanisms that several rooms need, each of them once. Standard library only."""
