"""OTLP by an implementation that is not ours: `make` writes an export of metrics (protobuf, base64) to standard output;
`metrics` reads such an export, `spans` an export of traces in JSON (base64) from standard input, and both print what is
in it as one JSON object."""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def attributes(found):
    return {one.key: one.value.string_value or one.value.int_value for one in found}


def make():
    export = ExportMetricsServiceRequest()
    resource = export.resource_metrics.add()
    for key, value in (("service.name", "claude-code"), ("user.email", "ada@example.com")):
        resource.resource.attributes.add(key=key).value.string_value = value
    metric = resource.scope_metrics.add().metrics.add(name="claude_code.token.usage", unit="tokens")
    metric.sum.data_points.add(as_int=1234567890123, time_unix_nano=1927857906789000000)
    print(base64.b64encode(export.SerializeToString()).decode())


def metrics(body):
    export = ExportMetricsServiceRequest()
    export.ParseFromString(body)
    resource = export.resource_metrics[0]
    metric = resource.scope_metrics[0].metrics[0]
    return {
        "resource": attributes(resource.resource.attributes),
        "name": metric.name,
        "value": metric.sum.data_points[0].as_int,
    }


def spans(body):
    # The JSON form writes ids as hexadecimal digits, where protobuf's own has base64.
    document = json.loads(body)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    # Unknown fields and wrong types are errors here.
    export = json_format.ParseDict(document, ExportTraceServiceRequest())
    resource = export.resource_spans[0]
    return {
        "resource": attributes(resource.resource.attributes),
        "spans": [
            {
                "trace": span.trace_id.hex(),
                "span": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "name": span.name,
                "kind": span.kind,
                "takes": span.end_time_unix_nano >= span.start_time_unix_nano > 0,
                "attributes": attributes(span.attributes),
            }
            for span in resource.scope_spans[0].spans
        ],
    }


if sys.argv[1] == "make":
    make()
else:
    body = base64.b64decode(sys.stdin.read())
    print(json.dumps({"metrics": metrics, "spans": spans}[sys.argv[1]](body)))
