"""Timings of the session service alone: one process of it on a real store, broker and archive."""
