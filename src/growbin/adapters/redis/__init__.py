"""Redis: sessions, job records, and the progress of every job."""
