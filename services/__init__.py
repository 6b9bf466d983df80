"""Maieutic's services, and the runtime that they share."""
