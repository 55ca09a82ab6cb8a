"""A process supervisor for Python workers: one small parent, one process per job.

This package is the parent. What happens inside the processes that it forks is the package
`workers`; the seam between the two is `supervisor.slot`.
"""

__version__ = "0.1.0"
