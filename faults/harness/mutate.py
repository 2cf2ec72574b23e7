"""Seeded mutations of bytes and of JSON values: what a slip, a bad merge or another program may make of a file."""

import copy
import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "a", "1", "-1", "NaN", "../../x",
    "/etc/x", "\ud800", "é" * 40, "\0", "x" * 5000, [], [1], [[]], [None], [0, 1], [1, 0], [0, 2**62], {}, {"a": 1},
    {"": []},
)  # fmt: skip
TOKENS = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"NaN", b"-Infinity", b"1e999", b"\xff", b"\xef\xbb\xbf",
          b"\0", b"\r\n", b"\n", b" ", b"\t", b"9" * 400, b"[" * 3000, b'{"a":' * 1500, b"\xe2\x80\xa8")  # fmt: skip


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return data after one to four changes: a bit, bytes cut out, doubled or moved, a token put in, an end cut off."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 4, 40, 4000)))
        change = rng.randrange(6)
        if change == 0 and a < len(data):
            data = data[:a] + bytes([data[a] ^ 1 << rng.randrange(8)]) + data[a + 1 :]
        elif change == 1:
            data = data[:a] + data[b:]
        elif change == 2:
            data = data[:b] + data[a:b] + data[b:]
        elif change == 3:
            data = data[:a] + rng.choice(TOKENS) + data[a:]
        elif change == 4:
            data = data[:a]
        else:
            data = data[:a] + data[b:] + data[a:b]
    return data


def of_json(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a copy of an object after one or two changes of values, keys or lengths, anywhere inside it."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        holder, key = _somewhere(value, rng)
        change = rng.randrange(5)
        if change <= 1:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif change == 2 and len(holder) > 1:
            del holder[key]
        elif change == 3 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif isinstance(holder, dict):
            holder[rng.choice(("", "a", "10", f"{key}x", "\ud800"))] = holder.pop(key)
        elif isinstance(holder[key], int | float):
            holder[key] = -holder[key] - 1
    return value


def _somewhere(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a list or dict inside value, not empty, and a key of it; shallow places as often as deep ones."""
    places = [(value, key) for key in value]
    while True:
        holder, key = rng.choice(places)
        inner = holder[key]
        if not isinstance(inner, list | dict) or not inner or rng.random() < 0.3:
            return holder, key
        places = [(inner, k) for k in (inner if isinstance(inner, dict) else range(len(inner)))]


def as_bytes(value: dict[str, Any]) -> bytes:
    """Return value as JSON text, lone surrogates escaped as JSON allows."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
