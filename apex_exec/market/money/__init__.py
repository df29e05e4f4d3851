"""Prices, purchases, metering, statements, invoices."""
