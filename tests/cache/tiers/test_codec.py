from __future__ import annotations

import os

import pytest

from vivace.cache import codec


@pytest.mark.parametrize("payload", [b"", b"x", os.urandom(1024), b"words " * 1000, bytes(5000)])
def test_what_is_packed_comes_back(payload: bytes) -> None:
    data = codec.pack(payload, schema=7, expires=100.0)
    assert codec.unpack(data, schema=7, now=99.9) == payload
    assert codec.expiry(data) == 100.0


def test_only_what_gets_smaller_is_compressed() -> None:
    header = len(codec.pack(b"", schema=1, expires=None))
    assert len(codec.pack(bytes(1024), schema=1, expires=None)) == header + 1024
    assert len(codec.pack(bytes(1025), schema=1, expires=None)) < 100
    noise = os.urandom(4096)
    assert len(codec.pack(noise, schema=1, expires=None)) == header + 4096


def test_expired_and_foreign_are_misses() -> None:
    data = codec.pack(b"value", schema=7, expires=100.0)
    assert codec.unpack(data, schema=7, now=100.0) is None
    assert codec.unpack(data, schema=8, now=0.0) is None
    assert codec.unpack(codec.pack(b"v", schema=7, expires=None), schema=7, now=1e12) == b"v"
    assert codec.expiry(codec.pack(b"v", schema=7, expires=None)) is None


@pytest.mark.parametrize("payload", [b"a short value", b"a long one, compressed " * 200])
def test_no_damage_is_read(payload: bytes) -> None:
    data = codec.pack(payload, schema=1, expires=None)
    for length in range(len(data)):
        assert codec.unpack(data[:length], schema=1, now=0.0) is None
    for place in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= bit
            assert codec.unpack(bytes(damaged), schema=1, now=0.0) is None
    assert codec.unpack(data + b"more", schema=1, now=0.0) is None
