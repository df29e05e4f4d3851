"""What a worker may do, as data: the jail's plan, the seccomp policy, and the probe of this machine."""
