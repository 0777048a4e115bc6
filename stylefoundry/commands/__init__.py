"""The commands that talk to a service, one file per noun."""
