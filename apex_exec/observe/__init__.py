"""What the daemon says of itself: metrics, health and logs. Imports nothing above ``core``."""
