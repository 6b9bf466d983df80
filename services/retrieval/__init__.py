"""Documents: stored once per tenant, split, embedded, and searched by meaning."""
