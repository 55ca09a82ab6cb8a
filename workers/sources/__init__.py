"""Where messages come from: one module for each kind of server, each behind the same interface."""
