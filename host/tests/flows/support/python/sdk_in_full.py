"""A conversation with the official Python SDK that uses everything: tools, thinking, betas, counting, retries, and every
error as its own exception. Prints what it saw as one JSON object."""

import json
import os

import anthropic


def client(max_retries=0):
    return anthropic.Anthropic(
        base_url=os.environ["GATEWAY"], auth_token=os.environ["TOKEN"], max_retries=max_retries
    )


gateway = client()
weather = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
question = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "How is the weather in Köln?"}],
    "tools": [weather],
}


def shown(message):
    return {
        "kinds": [block.type for block in message.content],
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "thinking": "".join(block.thinking for block in message.content if block.type == "thinking"),
        "tool": [[block.name, block.input] for block in message.content if block.type == "tool_use"],
        "stop_reason": message.stop_reason,
        "output_tokens": message.usage.output_tokens,
    }


message = gateway.beta.messages.create(**question, max_tokens=64, betas=["context-1m-2025-08-07"])

with gateway.messages.stream(**question, max_tokens=64) as stream:
    events = [event.type for event in stream]
    streamed = stream.get_final_message()

counted = gateway.messages.count_tokens(**question)

errors = {}
for status in (400, 401, 403, 404, 429, 500):
    try:
        gateway.messages.create(**question, max_tokens=1000 + status)
    except anthropic.APIStatusError as error:
        errors[str(status)] = [type(error).__name__, error.status_code, error.body["error"]["type"]]

said = ""
try:
    with gateway.messages.stream(**question, max_tokens=2000) as stream:
        for text in stream.text_stream:
            said += text
    broken = None
except anthropic.APIError as error:
    broken = error.body["error"]["type"]

print(
    json.dumps(
        {
            "message": shown(message),
            "streamed": shown(streamed),
            "deltas": events.count("content_block_delta"),
            "counted": counted.input_tokens,
            "errors": errors,
            "said": said,
            "broken": broken,
            "retried": shown(client(2).messages.create(**question, max_tokens=3000))["text"],
        }
    )
)
