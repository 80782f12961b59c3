"""One module for each outside system. Each class has `open(...)`, and turns vendor errors into ours."""
