"""Every store killed, emptied or slow under load: what was accepted ends exactly once."""
