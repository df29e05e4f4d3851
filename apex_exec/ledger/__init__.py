"""The audit ledger: append-only, hash-chained, signed."""
