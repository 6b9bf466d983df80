"""The databases behind the archive's port."""
