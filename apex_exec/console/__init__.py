"""The console: web pages for the people who look after a daemon, served by a process of its own."""
