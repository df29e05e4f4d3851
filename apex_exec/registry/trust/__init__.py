"""Keys, signatures, approvals."""
