"""What clouds check of a request, by implementations that are not ours. Reads requests as JSON from standard input;
`signatures` computes with botocore the signature that each should carry and prints it beside the one that it carries,
`assertion` verifies a JWT with the key of a certificate and prints its header and claims."""

import base64
import hashlib
import json
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import RSAKey


def signature(seen):
    headers = dict(seen["headers"])
    scheme, parameters = headers["authorization"].split(" ", 1)
    parts = dict(part.strip().split("=", 1) for part in parameters.split(","))
    access_key_id, _, region, service, _ = parts["Credential"].split("/")
    signed = parts["SignedHeaders"].split(";")
    body = base64.b64decode(seen["body"])
    request = AWSRequest(
        method=seen["method"],
        url=f"http://{headers['host']}{seen['path']}",
        headers={name: headers[name] for name in signed},
        data=body,
    )
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(access_key_id, seen["secret"], headers.get("x-amz-security-token")), service, region)
    canonical = signer.canonical_request(request)
    return {
        "scheme": scheme,
        "id": access_key_id,
        "scope": f"{region}/{service}",
        "signed": signed,
        "carried": parts["Signature"],
        "right": signer.signature(signer.string_to_sign(request, canonical), request),
        "body": headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest(),
    }


def assertion(seen):
    key = x509.load_pem_x509_certificate(seen["certificate"].encode()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    token = jwt.decode(seen["token"], RSAKey.import_key(pem), algorithms=["RS256"])
    return {"header": token.header, "claims": token.claims}


asked = json.load(sys.stdin)
print(json.dumps([signature(one) for one in asked] if sys.argv[1] == "signatures" else assertion(asked)))
