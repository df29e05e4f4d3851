"""Files with which other programs run a daemon: systemd, Kubernetes, Compose, a container's build."""
