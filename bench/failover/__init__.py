"""What a failover of the session store costs its callers."""
