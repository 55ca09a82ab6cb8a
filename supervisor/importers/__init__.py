"""Readers of other supervisors' configurations, one module a format: text in, a `draft` out.

Pure: they open nothing and ask nothing of the machine; `supervisor.importing` gives them what they
need and writes what they have understood.
"""
