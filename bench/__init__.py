"""The benchmark of every figure that README quotes: `python -m bench`, or `make bench`."""
