"""Sends each row of a table to the door, and judges by three witnesses: the answer, every byte that the backend received,
and what the backend itself says that it has read.

usage: play.py TABLE DOOR_PORT TAP_PORT BACKEND_PORT BACKEND_NAME BACKEND_LOG
"""

import http.client, io, json, os, socket, struct, sys, time

import table
from tap import Tap

PATIENCE = 20
path, door, tap_port, backend_port, backend, log = sys.argv[1:]
over_http2 = os.path.basename(path) == "http2"
tap = Tap(int(tap_port), int(backend_port))
log = open(log, "r", encoding="latin-1")
log.seek(0, io.SEEK_END)
asked = 0


def connect():
    caller = socket.create_connection(("127.0.0.1", int(door)), PATIENCE)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return caller


def send(caller, pieces):
    try:
        for piece in pieces:
            caller.sendall(piece)
    except OSError:
        pass  # It has heard enough; what it said is there to be read.


class Whole(io.BufferedReader):
    """Stays open from one answer to the next."""

    def close(self):
        pass


class Wire:
    def __init__(self, caller):
        self.file = Whole(socket.SocketIO(caller, "r"))

    def makefile(self, *_):
        return self.file


def answers(wire, methods):
    """As many answers as requests; fewer if the connection ends before, or nothing comes any more."""
    found = []
    try:
        for method in methods:
            answer = http.client.HTTPResponse(wire, method=method.decode())
            answer.begin()
            found.append((answer.status, answer.headers, answer.read()))
    except (OSError, http.client.HTTPException):
        pass
    return found


def ended(wire):
    try:
        return wire.file.read() == b""
    except OSError as cut:
        return not isinstance(cut, TimeoutError)


def mark():
    """A good request behind each row: when it is answered, whatever there was to come has come."""
    global asked
    asked += 1
    target = b"/mark-%d" % asked
    with connect() as caller:
        send(caller, [b"GET %s HTTP/1.1\r\n%s\r\n" % (target, table.GOOD_HOST)])
        [(status, _, _)] = answers(Wire(caller), [b"GET"])
    assert status == 200, f"a good request was answered with {status}"
    return target


def witnesses():
    """What the backend received, and what it has read, up to a mark."""
    target = mark()
    received = tap.take()
    read, end = [], time.monotonic() + PATIENCE
    while not read or read[-1]["target"] != target.decode():
        line = log.readline()
        while line and not line.endswith("\n"):
            line += log.readline()
        if line:
            read.append(json.loads(line, strict=False))
        elif time.monotonic() > end:
            raise SystemExit(f"{backend} did not tell of {target}")
        else:
            time.sleep(0.005)
    return received, read[:-1], target


def judge(row, received, read, target):
    """Why what the backend received and read is not what the row wants."""
    refused, cut = row.wanted[0] != "served", "cut" in row.wanted
    requests, left = [], b""
    for raw in received.values():
        found, rest = table.requests_in(raw)
        requests += found
        left += rest
    marks = [request for request in requests if request[1] == target]
    requests = [request for request in requests if request[1] != target]
    everything = b"".join(received.values()).lower()
    if len(marks) != 1:
        yield f"the request behind it arrived {len(marks)} times"
    if left and not (refused and cut):
        yield f"the backend received {left[:200]!r}"
    if refused and requests:
        yield f"the backend received whole requests: {requests}"
    if not refused and requests != row.requests:
        yield f"the backend received {requests}, not {row.requests}"
    yield from (f"the backend did not receive {bytes!r}" for bytes in row.present if bytes not in everything)
    yield from (f"the backend received {bytes!r}" for bytes in row.absent if bytes in everything)
    if backend in row.unread:
        return
    whole = [tuple(line[key].encode("latin-1") for key in ("method", "target", "body")) for line in read if line["whole"]]
    if refused and whole:
        yield f"{backend} has read {whole}"
    if not refused and whole != row.requests:
        yield f"{backend} has read {whole}, not {row.requests}"


def play_http1(row, pieces):
    with connect() as caller:
        send(caller, pieces)
        wire = Wire(caller)
        said = answers(wire, [request[0] for request in row.requests] or [b"GET"])
        if row.wanted[0] == "served":
            own = [headers["culvert-failure"] for _, headers, _ in said if headers["culvert-failure"]]
            if own or len(said) != len(row.requests):
                yield f"{len(said)} answers, of the relay's own: {own}"
            return
        if not said:
            if not {"cut", "closed"} & set(row.wanted) or not ended(wire):
                yield "no answer"
            return
        [(status, headers, body)] = said
        label = headers["culvert-failure"]
        if [str(status), label in row.wanted[-1 - ("cut" in row.wanted)].split("|")] != [row.wanted[0], True]:
            yield f"answered with {status} {label}"
        if headers["connection"] != "close" or not ended(wire):
            yield "the connection stays open"
        if row.bytes[:40] in body or b"poison" in body:
            yield f"the answer echoes: {body!r}"


def variants(row):
    raw = row.bytes
    yield "whole", [raw]
    if row.wanted[0] != "served":
        yield "with a request behind it", [raw + table.POISON]
    if len(raw) <= 400:
        yield "byte by byte", [raw[at : at + 1] for at in range(len(raw))]
    else:
        yield "in three pieces", [raw[: len(raw) // 3], raw[len(raw) // 3 : -2], raw[-2:]]


def play_http2(row, _):
    fields = [line for line in row.lines if not line.startswith(b"> ")]
    body = b"".join(line[2:] for line in row.lines if line.startswith(b"> "))
    block = b"".join(field_line(line) for line in fields)
    end, whole = 1, 4
    frames = [frame(1, whole if body else whole | end, block)] + [frame(0, end, body)] * bool(body)
    with connect() as caller:
        send(caller, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b"", 0) + b"".join(frames)])
        said = answer_http2(caller)
    if said != row.wanted[0]:
        yield f"answered with {said}"


def field_line(line):
    """Literal, never indexed, not compressed (RFC 7541 section 6.2.2)."""
    name, _, value = line[1:].partition(b": ")
    return b"\0" + length(line[:1] + name) + length(value)


def length(text):
    assert len(text) < 127
    return bytes([len(text)]) + text


def frame(kind, flags, payload, stream=1):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def answer_http2(caller):
    data, reset, goaway, headers = b"", 3, 7, 1
    while True:
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            kind, payload, data = data[3], data[9 : 9 + size], data[9 + size :]
            if kind == reset:
                return "refused"
            if kind == goaway and int.from_bytes(payload[4:8], "big"):
                return "refused"
            # :status 200 and :status 400 of the static table.
            if kind == headers:
                return {0x88: "served", 0x8C: "refused"}.get(payload[0], f"other: {payload[:20]!r}")
        try:
            piece = caller.recv(65536)
        except TimeoutError:
            return "nothing"
        except ConnectionError:
            piece = b""
        if not piece:
            return "refused"
        data += piece


def main():
    played, held = 0, 0
    witnesses()
    for row in table.read(path):
        for how, pieces in [("HTTP/2", None)] if over_http2 else variants(row):
            wrong = list((play_http2 if over_http2 else play_http1)(row, pieces))
            wrong += judge(row, *witnesses())
            played += 1
            held += not wrong
            if wrong:
                print(f"{row.name} ({row.rule}), {how}: {'; '.join(wrong)}", flush=True)
    print(held, played)


main()
