"""The way in over HTTP: tickets, jobs, sessions, the progress stream."""
