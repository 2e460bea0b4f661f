# sockets.py - sockets of pyzmq against one of znl.core that says every message back (sockets_peer.lua):
#
#   sockets.py dealer <endpoint>   connects to its ROUTER
#   sockets.py router              binds, prints the endpoint, and waits for its DEALER; twice in one place
#
# Prints "ok" at the end; anything wrong is an exception.
#
# SPDX-License-Identifier: MIT
import sys

import zmq

SIZES = [0, 1, 2, 254, 255, 256, 257, 65535, 65536, 65537, 1024 * 1024]
WAIT_MS = 60000


def pattern(size, seed):
    block = bytes((seed * 31 + i * 7 + (i >> 8)) % 256 for i in range(65536 + 251))
    return (block * (size // len(block) + 1))[:size]


def messages():
    for size in SIZES:
        yield [pattern(size, size)]
        yield [b"before", pattern(size, size), b"", b"after"]
    yield [b"frame"] * 500
    for number in range(2000):
        yield [b"number", str(number).encode()]


def new_socket(context, kind):
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    socket.setsockopt(zmq.SNDTIMEO, WAIT_MS)
    return socket


def exchange(socket, name=None):
    """Everything comes back, in order. Windows of 50: neither side has to hold more."""
    head = [] if name is None else [name]
    everything = list(messages())
    for start in range(0, len(everything), 50):
        window = everything[start : start + 50]
        for message in window:
            socket.send_multipart(head + message)
        for message in window:
            got = socket.recv_multipart()
            while got[len(head) :] == [b"here"]:
                got = socket.recv_multipart()
            if got != head + message:
                raise AssertionError(f"{len(message)} frames came back otherwise")


def dealer(context, endpoint):
    names = [b"a", b"n" * 255, b"\xff\x00\xfe", None]
    sockets = []
    for name in names:
        socket = new_socket(context, zmq.DEALER)
        if name is not None:
            socket.setsockopt(zmq.ROUTING_ID, name)
        socket.connect(endpoint)
        sockets.append(socket)
    for socket in sockets:
        exchange(socket)
    # The name of a socket that has gone can be had again.
    for _ in range(20):
        sockets[0].close()
        sockets[0] = new_socket(context, zmq.DEALER)
        sockets[0].setsockopt(zmq.ROUTING_ID, names[0])
        sockets[0].connect(endpoint)
        sockets[0].send(b"again")
        assert sockets[0].recv() == b"again"
    for socket in sockets:
        socket.close()


def router(context):
    endpoint = "tcp://127.0.0.1:*"
    for _ in range(2):
        socket = new_socket(context, zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.bind(endpoint)
        endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        print(endpoint, flush=True)
        assert socket.recv_multipart() == [b"lua", b"here"]
        exchange(socket, b"lua")
        socket.unbind(endpoint)
        socket.close()


context = zmq.Context()
if sys.argv[1] == "dealer":
    dealer(context, sys.argv[2])
else:
    router(context)
print("ok", flush=True)
