"""A simulated world for the shipped code: each module is named after what it replaces."""
