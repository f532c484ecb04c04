"""Reads the tables. A row is `[name] rule -> what has to come of it`, and lines: bytes, as a Python literal would have
them, with `{H}` for a good Host, `{P}` for a good request and `{9*x}` for repetition. The end of a line is no byte.

    = METHOD TARGET BODY   one request that the backend has to have read, in order
    + bytes, - bytes       what has to be, and must not be, in what the backend received, whatever its case
    ~ backend              which does not read this: of it only the bytes that it received are judged
"""

import re
from dataclasses import dataclass, field

GOOD_HOST = b"Host: app.test\r\n"
POISON = b"GET /poison HTTP/1.1\r\nHost: app.test\r\n\r\n"


@dataclass
class Row:
    name: str
    rule: str
    wanted: list
    lines: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    present: list = field(default_factory=list)
    absent: list = field(default_factory=list)
    unread: list = field(default_factory=list)

    @property
    def bytes(self):
        return b"".join(self.lines)


def read(path):
    rows = []
    for number, line in enumerate(open(path, encoding="ascii"), 1):
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        if head := re.fullmatch(r"\[(\S+)\] (\S+) -> (.+)", line):
            rows.append(Row(head[1], head[2], head[3].split()))
        elif line.startswith("= "):
            method, target, *body = line[2:].split(" ", 2)
            rows[-1].requests.append((literal(method), literal(target), literal(body[0] if body else "")))
        elif line[:2] in ("+ ", "- ", "~ "):
            row = rows[-1]
            {"+": row.present, "-": row.absent}.get(line[0], row.unread).append(
                line[2:] if line[0] == "~" else literal(line[2:]).lower()
            )
        elif line.startswith("["):
            raise SystemExit(f"{path}:{number}: not a row: {line}")
        else:
            rows[-1].lines.append(literal(line))
    assert len({row.name for row in rows}) == len(rows), f"{path}: one name twice"
    return rows


def literal(text):
    raw = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    raw = raw.replace(b"{H}", GOOD_HOST).replace(b"{P}", POISON)
    return re.sub(rb"\{(\d+)\*([^}]+)\}", lambda found: found[2] * int(found[1]), raw)


def requests_in(raw):
    """What a strict reader makes of the bytes of one connection: its requests, and what is left and is none."""
    found = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        if not end:
            break
        line, *lines = head.split(b"\r\n")
        parts = line.split(b" ")
        fields = [re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*", one) for one in lines]
        if len(parts) != 3 or parts[2] != b"HTTP/1.1" or None in fields:
            break
        fields = [(one[1].lower(), one[2]) for one in fields]
        lengths = [value for name, value in fields if name == b"content-length"]
        codings = [value for name, value in fields if name == b"transfer-encoding"]
        hosts = [value for name, value in fields if name == b"host"]
        if len(lengths) + len(codings) > 1 or len(hosts) != 1 or codings not in ([], [b"chunked"]):
            break
        body = b""
        if codings:
            read = chunks(rest)
            if read is None:
                break
            body, rest = read
        elif lengths:
            if not lengths[0].isdigit() or len(rest) < int(lengths[0]):
                break
            body, rest = rest[: int(lengths[0])], rest[int(lengths[0]) :]
        found.append((parts[0], parts[1], body))
        raw = rest
    return found, raw


def chunks(raw):
    body = b""
    while True:
        size, end, raw = raw.partition(b"\r\n")
        if not end or not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
            return None
        size = int(size, 16)
        if not size:
            break
        if raw[size : size + 2] != b"\r\n":
            return None
        body, raw = body + raw[:size], raw[size + 2 :]
    while not raw.startswith(b"\r\n"):
        _, end, raw = raw.partition(b"\r\n")
        if not end:
            return None
    return body, raw[2:]
