"""The pure decision core: state machines that take time, ids and randomness as arguments."""
