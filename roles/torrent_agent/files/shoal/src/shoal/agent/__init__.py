"""The daemon: config, wiring, the HTTP+JSON API on a unix socket, and the client that the command line uses.

Nothing is imported here: ``shoal status`` needs ``shoal.agent.client`` alone and must not load libtorrent.
"""
