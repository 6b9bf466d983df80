"""Conversations as callers have them, with the whole backend in one process."""
