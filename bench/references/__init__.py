"""What growbin is measured beside: the same job without its guarantees."""
