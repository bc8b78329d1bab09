"""A reader's certificate, made afresh for its life: a key on the curve P-256 and an X.509 certificate that it signs itself.

TLS needs some certificate; trust comes from the study's key, to which the proofs inside the connection bind it
(docs/decisions/0004). So nothing here is kept, handed on or looked up, and no program or library is needed. OpenSSL checks
that key and certificate belong together when it loads them.

Curve and signature: FIPS 186-5 (ECDSA) and SEC 2, section 2.4.2 (secp256r1); certificate: RFC 5280; keys: RFC 5915.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import ssl

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

_CURVE = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1
_EC_KEY = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_NAME = bytes.fromhex("3011310f300d06035504030c06") + b"alearn"  # CN=alearn


def server_context() -> tuple[ssl.SSLContext, bytes]:
    """What a reader accepts TLS 1.3 connections with, from a fresh key that never touches a disk.

    Returns:
        The context, and the SHA-256 of its certificate.
    """
    certificate, key = make_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # a session is never resumed
    descriptor = os.memfd_create("alearn-certificate")
    try:
        os.write(descriptor, _pem("CERTIFICATE", certificate) + _pem("EC PRIVATE KEY", key))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context, hashlib.sha256(certificate).digest()


def make_certificate() -> tuple[bytes, bytes]:
    """A certificate and its private key, both in DER."""
    secret = 1 + secrets.randbelow(ORDER - 1)
    point = _multiply(secret)
    public = b"\x00\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")
    body = _der(
        0x30,
        _der(0xA0, b"\x02\x01\x02"),  # version 3
        _integer(1 + secrets.randbits(120)),
        _ECDSA_SHA256,
        _NAME,
        _der(0x30, _der(0x17, b"200101000000Z"), _der(0x18, b"99991231235959Z")),  # RFC 5280, 4.1.2.5: no end is known
        _NAME,
        _der(0x30, _der(0x30, _EC_KEY, _CURVE), _der(0x03, public)),
    )
    signed = _der(0x30, body, _ECDSA_SHA256, _der(0x03, b"\x00", _sign(secret, body)))
    key = _der(0x30, b"\x02\x01\x01", _der(0x04, secret.to_bytes(32, "big")), _der(0xA0, _CURVE), _der(0xA1, _der(0x03, public)))
    return signed, key


def _sign(secret: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    r = s = 0
    while not r or not s:
        once = 1 + secrets.randbelow(ORDER - 1)
        r = _multiply(once)[0] % ORDER
        s = pow(once, -1, ORDER) * (digest + r * secret) % ORDER
    return _der(0x30, _integer(r), _integer(s))


def _multiply(scalar: int) -> tuple[int, int]:
    """``scalar`` times the base point, by doubling and adding."""
    total: tuple[int, int] | None = None
    for bit in bin(scalar)[2:]:
        total = None if total is None else _add(total, total)
        if bit == "1":
            total = BASE if total is None else _add(total, BASE)
    assert total is not None
    return total


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points of which neither is the other's negative (never met below the order)."""
    slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def _pem(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()
