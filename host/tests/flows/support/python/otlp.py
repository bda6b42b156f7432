"""OTLP by an implementation that is not ours: `make:SIGNAL:FORM` writes an export of metrics, logs or traces, in protobuf
or json, to standard output (base64); `read:SIGNAL:FORM` reads one from standard input (base64) and prints what is in it
as one JSON object."""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS = {
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}


def attributes(found):
    return {one.key: one.value.string_value or one.value.int_value for one in found}


def resources(signal):
    return {"metrics": "resource_metrics", "logs": "resource_logs", "traces": "resource_spans"}[signal]


def with_ids(document, change):
    """The JSON form writes ids as hexadecimal digits, where protobuf's own has base64."""
    for resource in document.get("resourceSpans", []):
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = change(span[name])
    return document


def make(signal, form):
    export = REQUESTS[signal]()
    resource = getattr(export, resources(signal)).add()
    for key, value in (("service.name", "claude-code"), ("user.email", "ada@example.com")):
        resource.resource.attributes.add(key=key).value.string_value = value
    at = 1927857906789000000
    if signal == "metrics":
        metric = resource.scope_metrics.add().metrics.add(name="claude_code.token.usage", unit="tokens")
        metric.sum.data_points.add(as_int=1234567890123, time_unix_nano=at)
    elif signal == "logs":
        record = resource.scope_logs.add().log_records.add(time_unix_nano=at)
        record.body.string_value = "claude_code.api_request"
    else:
        span = resource.scope_spans.add().spans.add(name="claude_code.turn", start_time_unix_nano=at)
        span.trace_id, span.span_id = bytes(range(16)), bytes(range(8))
        span.end_time_unix_nano = at + 1
    if form == "protobuf":
        return export.SerializeToString()
    document = json_format.MessageToDict(export)
    return json.dumps(with_ids(document, lambda text: base64.b64decode(text).hex())).encode()


def read(signal, form, body):
    export = REQUESTS[signal]()
    if form == "protobuf":
        export.ParseFromString(body)
    else:
        document = with_ids(json.loads(body), lambda text: base64.b64encode(bytes.fromhex(text)).decode())
        # Unknown fields and wrong types are errors here.
        json_format.ParseDict(document, export)
    resource = getattr(export, resources(signal))[0]
    found = {"resource": attributes(resource.resource.attributes)}
    if signal == "metrics":
        metric = resource.scope_metrics[0].metrics[0]
        found.update(name=metric.name, value=metric.sum.data_points[0].as_int)
    elif signal == "logs":
        found.update(name=resource.scope_logs[0].log_records[0].body.string_value)
    else:
        found.update(spans=[span_of(span) for span in resource.scope_spans[0].spans])
    return found


def span_of(span):
    return {
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "takes": span.end_time_unix_nano >= span.start_time_unix_nano > 0,
        "attributes": attributes(span.attributes),
    }


task, signal, form = sys.argv[1].split(":")
if task == "make":
    print(base64.b64encode(make(signal, form)).decode())
else:
    print(json.dumps(read(signal, form, base64.b64decode(sys.stdin.read()))))
