"""What people type: photos from a terminal, dead letters, a check of every part."""
