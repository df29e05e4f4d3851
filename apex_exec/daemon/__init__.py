"""The daemon: a thin shell of sockets and processes around the pure core."""
