"""Answers each request with a row of the table, and judges what the caller got, and whether the backend was asked again on
a connection that has said something else than it should have.

usage: answer.py TABLE DOOR_PORT BACKEND_PORT
"""

import http.client, socket, sys, threading

import table

PATIENCE = 20
path, door, port = sys.argv[1:]
rows = {row.name: row for row in table.read(path)}
asked = {}  # target: the connections that it came on


def serve(caller, number):
    received = b""
    with caller:
        while True:
            while b"\r\n\r\n" not in received:
                piece = caller.recv(65536)
                if not piece:
                    return
                received += piece
            head, _, received = received.partition(b"\r\n\r\n")
            name = head.split(b" ")[1].decode()[1:]
            asked.setdefault(name, []).append(number)
            row = rows.get(name)
            caller.sendall(row.bytes if row else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
            if row and "close" in row.wanted:
                return


def quietly(*arguments):
    try:
        serve(*arguments)
    except OSError:
        pass


def listen():
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=128)
    number = 0
    while True:
        caller, _ = listener.accept()
        number += 1
        threading.Thread(target=quietly, args=(caller, number), daemon=True).start()


class Final(http.client.HTTPResponse):
    """Knows of 103 too."""

    def _read_status(self):
        while True:
            version, status, reason = super()._read_status()
            if status != 103:
                return version, status, reason
            while self.fp.readline().strip():
                pass


def call(target):
    """Status, label and body; `cut` for a body that has no proper end."""
    caller = http.client.HTTPConnection("127.0.0.1", int(door), timeout=PATIENCE)
    caller.response_class = Final
    try:
        caller.request("GET", "/" + target)
        answer = caller.getresponse()
        label = answer.headers["culvert-failure"]
        try:
            return answer.status, label, answer.read()
        except (http.client.HTTPException, ConnectionError):
            return "cut", label, b""
    except (http.client.HTTPException, OSError) as cause:
        return f"no answer: {cause!r}", None, b""
    finally:
        caller.close()


def judge(row, mark):
    status, label, body = call(row.name)
    wanted = [word for word in row.wanted if word not in ("kept", "close")]
    got = [str(status)] + [body.decode("latin-1")] * bool(body and not label) + [label] * bool(label)
    if wanted[0] == "502":
        wanted[1] = label if label and label.endswith(wanted[1]) else wanted[1]
    if got != wanted:
        yield f"the caller got {got}"
    good = call(mark)
    if good != (200, None, b"good"):
        yield f"a good request behind it was answered with {good}"
    again = set(asked.get(mark, ())) & set(asked.get(row.name, ()))
    if bool(again) != ("kept" in row.wanted):
        yield f"the connection was {'used again' if again else 'not kept'}"


def main():
    threading.Thread(target=listen, daemon=True).start()
    held = 0
    call("start")
    for number, row in enumerate(rows.values()):
        wrong = list(judge(row, f"mark-{number}"))
        held += not wrong
        if wrong:
            print(f"{row.name} ({row.rule}): {'; '.join(wrong)}", flush=True)
    print(held, len(rows))


main()
