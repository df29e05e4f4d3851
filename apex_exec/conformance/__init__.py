"""Cases that any host and any daemon of the host protocol can be held to."""
