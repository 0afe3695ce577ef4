"""A stand-in for services elsewhere: an HTTP server in a thread, with the paths of
two providers of language models.

`/hello` answers; `/never` answers when the server stops. The rest answers as the provider documents it,
streamed if the request asks for that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

SAID = ["Hello", ", ", "world"]
_USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


class _Services(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stopping: Event

    def do_GET(self) -> None:
        if self.path == "/never":
            self.stopping.wait()
        self._answer(b"hello", "text/plain")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = asked.get("stream", False)
        if self.path == "/v1/chat/completions":
            assert self.headers["authorization"] == "Bearer key"
            self._openai(asked["model"], streamed=streamed)
        else:
            assert self.path == "/v1/messages", self.path
            assert self.headers["x-api-key"] == "key"
            self._anthropic(asked["model"], streamed=streamed)

    def _openai(self, model: str, *, streamed: bool) -> None:
        whole = {"id": "c1", "created": 1, "model": model}
        if not streamed:
            message = {"role": "assistant", "content": "".join(SAID)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json(whole | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})
            return
        chunks = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in SAID]
        chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        events = [whole | {"object": "chat.completion.chunk", "choices": [chunk]} for chunk in chunks]
        self._events([("", json.dumps(event)) for event in events] + [("", "[DONE]")])

    def _anthropic(self, model: str, *, streamed: bool) -> None:
        message: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "".join(SAID)}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 3},
        }
        if not streamed:
            self._json(message)
            return
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": message | {"content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
                for text in SAID
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 3},
            },
            {"type": "message_stop"},
        ]
        self._events([(event["type"], json.dumps(event)) for event in events])

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _events(self, events: list[tuple[str, str]]) -> None:
        named = [f"event: {name}\n" if name else "" for name, _ in events]
        texts = [f"{name}data: {data}\n\n" for name, (_, data) in zip(named, events, strict=True)]
        self._answer("".join(texts).encode(), "text/event-stream")

    def _answer(self, body: bytes, type_: str) -> None:
        self.send_response(200)
        self.send_header("content-type", type_)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is part of the tests."""


@contextmanager
def services() -> Iterator[str]:
    """Their URL."""
    stopping = Event()
    handler = type("Services", (_Services,), {"stopping": stopping})
    server = _Server(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
