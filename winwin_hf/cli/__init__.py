"""The command line: `winwin`."""
