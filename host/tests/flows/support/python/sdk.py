"""One conversation with the official Python SDK; prints what it saw as one JSON object."""

import json
import os

import anthropic


def client(token):
    return anthropic.Anthropic(base_url=os.environ["GATEWAY"], auth_token=token, max_retries=0)


gateway = client(os.environ["TOKEN"])
question = {
    "model": os.environ["MODEL"],
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Say hello."}],
}

message = gateway.messages.create(**question)

deltas = []
with gateway.messages.stream(**question) as stream:
    for text in stream.text_stream:
        deltas.append(text)
    streamed = stream.get_final_message()

counted = gateway.messages.count_tokens(model=question["model"], messages=question["messages"])

models = [model.id for model in gateway.models.list()]

try:
    client("not-a-token").messages.create(**question)
    refused = None
except anthropic.APIStatusError as error:
    refused = {"kind": type(error).__name__, "status": error.status_code}

print(
    json.dumps(
        {
            "text": message.content[0].text,
            "stop_reason": message.stop_reason,
            "deltas": deltas,
            "streamed": streamed.content[0].text,
            "output_tokens": streamed.usage.output_tokens,
            "counted": counted.input_tokens,
            "models": models,
            "refused": refused,
        }
    )
)
