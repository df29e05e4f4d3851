"""The core in a simulated world: workers, hosts, a clock and everything that goes wrong, from a seed."""
