"""The default model: a classifier behind an OpenAI-compatible endpoint."""
