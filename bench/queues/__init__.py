"""The benchmark of the queues: `python -m bench.queues`, or `make bench-queues`."""
