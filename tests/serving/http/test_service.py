"""What all routes that read a body have in common."""

import socket

from serving.http import service


def test_a_body_that_never_comes(url, monkeypatch):
    monkeypatch.setattr(service, "BODY_WITHIN_S", 0.2)
    head = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=30) as slow:
        slow.sendall("\r\n".join([*head, "Content-Length: 100", "", '{"pro']).encode())
        answer = slow.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"timeout"' in answer
