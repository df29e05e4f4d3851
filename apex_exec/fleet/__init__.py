"""What a fleet needs beside the loop: engines that know its members, signed statements, and the process that reads."""
