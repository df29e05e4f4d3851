"""Distribution and revenue: review, coverage, pricing, entitlement, metering, invoices. See README.md here."""
