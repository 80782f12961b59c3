"""The vision model."""
