"""What plugins can reach outside their jail: the platform's database and the network, through a separate process."""
