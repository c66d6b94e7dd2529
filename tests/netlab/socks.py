#!/usr/bin/env python3
"""A SOCKS5 proxy that says what it was asked for, as JSON lines, and leads every name that
ends with .onion to one place.

Usage: socks.py LISTEN:PORT WHERE:PORT
"""

import json
import socket
import sys
import threading


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def exactly(stream, count):
    data = stream.recv(count, socket.MSG_WAITALL)
    if len(data) != count:
        raise OSError("the client left")
    return data


def serve(client, onion):
    try:
        _, methods = exactly(client, 2)
        exactly(client, methods)
        client.sendall(b"\x05\x00")
        _, command, _, kind = exactly(client, 4)
        if kind == 3:
            host = exactly(client, exactly(client, 1)[0]).decode("ascii", "replace")
        else:
            family, length = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, exactly(client, length))
        port = int.from_bytes(exactly(client, 2), "big")
        known = command == 1 and kind == 3 and host.endswith(".onion")
        print(json.dumps({"event": "asked", "command": command, "kind": kind, "host": host, "port": port}), flush=True)
        if not known:
            client.sendall(b"\x05\x04\x00\x01" + bytes(6))
            client.close()
            return
        server = socket.create_connection(onion)
        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
        threading.Thread(target=pump, args=(server, client), daemon=True).start()
        pump(client, server)
    except OSError:
        client.close()


def main():
    at, onion = ((host, int(port)) for host, port in (word.rsplit(":", 1) for word in sys.argv[1:3]))
    listener = socket.create_server(at)
    print(json.dumps({"event": "listening"}), flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, onion), daemon=True).start()


main()
