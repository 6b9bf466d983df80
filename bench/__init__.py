"""Timings, apart from the tests: what a turn costs and how many go at once."""
