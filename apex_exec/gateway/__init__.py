"""What plugins reach of the outside: the platform's database and the network, from a process beside the loop."""
