"""What the daemon reports about itself: metrics, health and logs. Imports nothing above ``core``."""
