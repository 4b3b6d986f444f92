"""The privileged side of a pull: asked for an application, it decides by signed metadata alone and drives `release`.

It reads no network and believes nothing of the agent's: what the agent fetched is an untrusted mirror here.
"""

PROTOCOL = 1
