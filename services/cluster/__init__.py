"""The platform on Kubernetes: brings it up, shows its state, takes it down. Called by the command
line; talks to Kubernetes, Helm, kind and Docker, never to a service's code.
"""
