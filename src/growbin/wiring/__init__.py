"""Ties each program together: reads the settings, opens the adapters, runs it."""
