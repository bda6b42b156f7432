"""Writes the golden streams beside this file: what a provider sends (`upstream.sse`, `upstream.bin`), what the client
gets for it (`client.sse`), and what is metered (`usage.json`). The frames of Bedrock are made here, from the description
of the format and with the checksums of zlib, so that they are no work of the library that reads them.

    python3 tests/streams/make.py
"""

import base64
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent
REQUEST_ID = "request-1"


def text(event):
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def start(**usage):
    usage = {"input_tokens": 25, "output_tokens": 1} | usage
    return {
        "type": "message_start",
        "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": [],
                    "stop_reason": None, "stop_sequence": None, "usage": usage},
    }


def block(index, kind, deltas, **members):
    yield {"type": "content_block_start", "index": index, "content_block": {"type": kind} | members}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def texts(*pieces):
    return [{"type": "text_delta", "text": piece} for piece in pieces]


def end(output_tokens, reason="end_turn", **usage):
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None},
           "usage": {"output_tokens": output_tokens} | usage}
    yield {"type": "message_stop"}


def told(input_tokens, output_tokens, **more):
    return {"told": {"input_tokens": input_tokens, "output_tokens": output_tokens} | more}


PING = {"type": "ping"}
FUTURE = {"type": "event_of_the_future", "member": 1.0}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "account 111122223333 is throttled"}}
LONG = "Grüße, 世界! 👩‍👩‍👧‍👦 ‎שלום‎ " + "漢字かな交じり文と絵文字🎉🦀" * 4

# What the provider sends, and what is metered.
CASES = {
    "short": ([{"type": "message_stop"}], "nothing"),
    "text": ([start(), PING, *block(0, "text", texts("Hello", ", ", "world."), text=""), *end(12)], told(25, 12)),
    "tool_use": (
        [start(cache_read_input_tokens=400, cache_creation_input_tokens=30,
               cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}),
         *block(0, "text", texts("I'll look."), text=""),
         *block(1, "tool_use",
                [{"type": "input_json_delta", "partial_json": piece}
                 for piece in ("", "{\"city\": \"Kö", "ln\", \"unit\":", " \"°C\"}")],
                id="toolu_1", name="weather", input={}),
         *end(61, "tool_use")],
        told(25, 61, cache_read_input_tokens=400, cache_creation_input_tokens=30, cache_creation_1h_input_tokens=20),
    ),
    "thinking": (
        [start(speed="fast"),
         *block(0, "thinking",
                [{"type": "thinking_delta", "thinking": "Let me think.\n\n"},
                 {"type": "thinking_delta", "thinking": "\"Yes\"\\no."},
                 {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk="}],
                thinking="", signature=""),
         *block(1, "redacted_thinking", [], data="EmwKAhgBEgy3va3pzix"),
         *block(2, "text", texts("Done."), text=""), *end(80)],
        told(25, 80, is_fast=True),
    ),
    "citations": (
        [start(),
         *block(0, "server_tool_use", [{"type": "input_json_delta", "partial_json": "{\"query\":\"grass\"}"}],
                id="srvtoolu_1", name="web_search", input={}),
         *block(1, "web_search_tool_result", [], tool_use_id="srvtoolu_1",
                content=[{"type": "web_search_result", "url": "https://example.com/?a=1&b=2", "title": "Grass",
                          "encrypted_content": "ErgB", "page_age": None}]),
         *block(2, "text",
                [{"type": "citations_delta",
                  "citation": {"type": "web_search_result_location", "url": "https://example.com/?a=1&b=2",
                               "cited_text": "The grass is green.", "encrypted_index": "Eo8B", "title": "Grass"}},
                 {"type": "text_delta", "text": "the grass is green"}],
                text="", citations=[]),
         *end(96, input_tokens=1025, server_tool_use={"web_search_requests": 2})],
        told(1025, 96, web_search_requests=2),
    ),
    "unicode": ([start(), *block(0, "text", texts(*[LONG[at:at + 29] for at in range(0, len(LONG), 29)]), text=""),
                 *end(240)], told(25, 240)),
    "future": ([start(), FUTURE, *block(0, "block_of_the_future", [{"type": "delta_of_the_future", "x": [1, 2.50]}]),
                *end(5, "reason_of_the_future", tokens_of_the_future=7)], told(25, 5)),
    # Forty characters: ten tokens.
    "error": ([start(), *list(block(0, "text", texts("x" * 40), text=""))[:2], ERROR],
              {"estimated": {"input_tokens": 25, "output_tokens": 10}}),
    "error_first": ([ERROR], "nothing"),
    "cut_off": ([start(), *list(block(0, "text", texts("x" * 40), text=""))[:2]],
                {"estimated": {"input_tokens": 25, "output_tokens": 10}}),
}

KNOWN = {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
         "message_stop"}
FAILURE = {"type": "error", "request_id": REQUEST_ID, "error": {"type": "api_error", "message": "upstream error"}}


def sse(events):
    return "".join(f"event: {event['type']}\ndata: {text(event)}\n\n" for event in events)


def for_client(events):
    """What clouds' clients get: the events of the Messages API, and one error that says nothing."""
    passed = []
    for event in events:
        if event["type"] == "error":
            return sse([*passed, FAILURE])
        if event["type"] in KNOWN:
            passed.append(event)
    return sse(passed)


def untidy(events):
    """Every way in which an event may be written."""
    lines = []
    for number, event in enumerate(events):
        data = text(event)
        lines.append([
            f"event:{event['type']}\r\ndata:{data}\r\n\r\n",
            f": a comment\nid: {number}\nevent: {event['type']}\ndata: {data}\n\n",
            f"data: {data}\n\n",
            f"retry: 5\revent: {event['type']}\rdata: {data}\r\r",
        ][number % 4])
    return "".join(lines)


def frame(headers, payload):
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    message = prelude + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


def frames(events):
    written = []
    for number, event in enumerate(events):
        if event is ERROR and number % 2 == 0:
            headers = {":exception-type": "throttlingException", ":content-type": "application/json",
                       ":message-type": "exception"}
            written.append(frame(headers, text({"message": event["error"]["message"]}).encode()))
            continue
        payload = {"bytes": base64.b64encode(text(event).encode()).decode(), "p": "abcdefghijklmnop"[:number % 16]}
        headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
        written.append(frame(headers, text(payload).encode()))
    return b"".join(written)


for name, (events, usage) in CASES.items():
    for provider, file, upstream, client in (
        ("anthropic", "upstream.sse", sse(events).encode(), sse(events)),
        ("clouds", "upstream.sse", untidy(events).encode(), for_client(events)),
        ("bedrock", "upstream.bin", frames(events), for_client(events)),
    ):
        folder = HERE / provider / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(upstream)
        (folder / "client.sse").write_bytes(client.encode())
        (folder / "usage.json").write_text(json.dumps(usage, indent=2) + "\n")
