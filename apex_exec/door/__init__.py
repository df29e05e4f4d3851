"""The HTTP door: the host protocol in JSON over HTTP/1.1, served by a process of its own."""
