"""What authors of plugins read, and how a terminal shows it."""
