"""What Pyro's and torch's distributions lack."""
