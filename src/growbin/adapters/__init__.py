"""One folder or module for each outside system. Each turns its vendor's errors into ours."""
