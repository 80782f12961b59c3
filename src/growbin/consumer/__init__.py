"""One job from delivery to verdict. Read `handle_job` first; the rest serves it."""
