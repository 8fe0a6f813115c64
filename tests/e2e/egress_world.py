#!/usr/bin/env python3
"""A small internet in network and mount namespaces of its own, for the egress tests.

    unshare --net --mount egress_world.py DIRECTORY

Its hosts are addresses on the loopback device: public ones, private ones and a
cloud's metadata service. A name server answers from a table, TLS and HTTP servers
answer what they were asked, and every question, connection and request is a line
of DIRECTORY/events.jsonl. Prints "ready", and ends when its standard input does.
"""
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

PUBLIC, OTHER, PRIVATE, METADATA = "93.184.216.34", "93.184.216.35", "10.0.0.1", "169.254.169.254"
PUBLIC_V6 = "2606:4700::1111"

# What a name leads to: one list for every time it is asked for, the last one for ever.
NAMES = {
    "api.example.com": [[PUBLIC]],
    "six.example.com": [[PUBLIC_V6]],
    "evil.example.net": [[OTHER]],
    "mixed.example.com": [[PUBLIC, PRIVATE]],
    "private.example.com": [[PRIVATE]],
    "metadata.example.com": [[METADATA]],
    "loopback.example.com": [["127.0.0.1"]],
    "rebind.example.com": [[PUBLIC], ["127.0.0.1"]],
    "nowhere.example.com.corp.test": [[OTHER]],
}

events_lock = threading.Lock()


def event(**what):
    with events_lock, open(os.path.join(directory, "events.jsonl"), "a", encoding="utf-8") as log:
        log.write(json.dumps(what) + "\n")


def thread(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()


# ---- names ----------------------------------------------------------------


def read_name(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1:at + 3])[0]
    return ".".join(labels).lower(), kind, query[12:at + 5]


def addresses_of(name, kind, asked):
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    lists = NAMES.get(name, [[]])
    turn = lists[min(asked, len(lists) - 1)]
    return [socket.inet_pton(family, one) for one in turn if (":" in one) == (family == socket.AF_INET6)] if family else []


def name_server():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    asked = {}
    thread(serve_names, server, asked)


def serve_names(server, asked):
    while True:
        query, client = server.recvfrom(4096)
        name, kind, question = read_name(query)
        event(what="question", name=name, kind=kind)
        found = addresses_of(name, kind, asked.get((name, kind), 0))
        asked[name, kind] = asked.get((name, kind), 0) + 1
        code = 0 if name in NAMES else 3
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        answers = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(one)) + one for one in found)
        server.sendto(head + question + answers, client)


# ---- servers ----------------------------------------------------------------


def certificate():
    key, cert = os.path.join(directory, "key.pem"), os.path.join(directory, "cert.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=DNS:api.example.com,DNS:*.example.com,DNS:evil.example.net",
                    "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


def listen(address, port, handle):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family, backlog=64)
    thread(accept_all, server, handle)


def accept_all(server, handle):
    while True:
        client, _ = server.accept()
        address, port = client.getsockname()[:2]
        event(what="connection", address=address, port=port)
        thread(handle, client, address, port)


def tls_server(context):
    def handle(client, address, port):
        names = []
        # sni_callback has the socket; the name is what the client said.
        try:
            with context.wrap_socket(client, server_side=True) as secure:
                names.append(getattr(secure, "said", None))
                answer(secure, address, port, names[0])
        except (OSError, ssl.SSLError) as error:
            event(what="broken", address=address, port=port, error=str(error))
    return handle


def plain_server(client, address, port):
    with client:
        answer(client, address, port, None)


def answer(stream, address, port, name):
    """/slow: a byte every tenth of a second until the client leaves; else who was asked."""
    request = b""
    while b"\r\n\r\n" not in request:
        piece = stream.recv(65536)
        if not piece:
            return
        request += piece
    line = request.split(b"\r\n", 1)[0].decode("latin-1")
    event(what="request", address=address, port=port, sni=name, line=line)
    if " /slow" in line:
        stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            stream.sendall(b".")
            time.sleep(0.1)
    body = json.dumps({"address": address, "sni": name, "line": line}).encode() + b"\n"
    stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (PUBLIC, OTHER, PRIVATE, METADATA):
        subprocess.run(["ip", "addr", "add", address + "/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "addr", "add", PUBLIC_V6 + "/128", "dev", "lo"], check=True)
    resolv = os.path.join(directory, "resolv.conf")
    with open(resolv, "w", encoding="ascii") as file:
        file.write("nameserver 127.0.0.1\nsearch corp.test\noptions timeout:1 attempts:1\n")
    nsswitch = os.path.join(directory, "nsswitch.conf")
    with open(nsswitch, "w", encoding="ascii") as file:
        file.write("passwd: files\ngroup: files\nhosts: files dns\n")
    for ours, theirs in ((resolv, "/etc/resolv.conf"), (nsswitch, "/etc/nsswitch.conf")):
        subprocess.run(["mount", "--bind", ours, os.path.realpath(theirs)], check=True)
    name_server()
    key, cert = certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.sni_callback = lambda secure, name, _: setattr(secure, "said", name)
    for address in (PUBLIC, OTHER, PRIVATE, METADATA, "127.0.0.1", PUBLIC_V6):
        listen(address, 443, tls_server(context))
        listen(address, 80, plain_server)
    print("ready", flush=True)
    sys.stdin.read()


directory = sys.argv[1]
main()
