"""What administrators ask, and the registrar that carries it out."""
