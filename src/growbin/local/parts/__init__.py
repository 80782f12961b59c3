"""A file for each part."""
