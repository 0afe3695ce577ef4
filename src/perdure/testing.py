"""Tests of an app's objects on virtual time: `world`, `story`, `run`. How to use it stands in
perdure/api/testing/world.py.
"""

from perdure.api.testing.world import Namespace, Socket, SocketClosed, Stub, World, run, story, world

__all__ = ["Namespace", "Socket", "SocketClosed", "Stub", "World", "run", "story", "world"]
