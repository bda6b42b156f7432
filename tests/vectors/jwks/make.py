"""Makes keys.json and tokens.json with PyJWT: one key per key type, one token per algorithm. Private keys are not kept.

    python3 -m venv venv && venv/bin/pip install 'pyjwt[crypto]' && venv/bin/python make.py
"""

import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

keys = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
algorithms = {f"{family}{bits}": "rsa" for family in ("RS", "PS") for bits in (256, 384, 512)}
algorithms |= {"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed25519"}
claims = {
    "iss": "https://idp.example.test",
    "aud": "gateway",
    "sub": "alice",
    "nonce": "n-1",
    "iat": 1_900_000_000,
    "exp": 1_900_003_600,
    "email": "alice@example.com",
    "email_verified": True,
    "name": "Alice A",
    "groups": ["eng"],
}

jwks, tokens = [], {}
for alg, kid in algorithms.items():
    tokens[alg] = jwt.encode(claims, keys[kid], algorithm=alg, headers={"kid": kid})
    if all(jwk["kid"] != kid for jwk in jwks):
        implementation = jwt.get_algorithm_by_name(alg)
        jwk = implementation.to_jwk(keys[kid].public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        jwks.append(jwk | {"kid": kid, "use": "sig"})

json.dump({"keys": jwks}, open("keys.json", "w"), indent=1)
json.dump(tokens, open("tokens.json", "w"), indent=1)
