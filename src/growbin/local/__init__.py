"""The local parts that `make run` and `make test` start; each runs on loopback only."""
