"""Callers of the door, in the cluster.

caller.py calls LOG RATE USER...      until SIGTERM: so many calls a second for each of them, GET and POST in turns, each noted
caller.py tell LOG USER WHAT...       what became of them; fails when that is not WHAT was promised
caller.py down|up USER SIZE RATE      a body: whether it is whole, and the longest that nothing of it came, in ms
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
import time

import bodies

DOOR = ("127.0.0.1", 8080)
# Longer than the longest that a relay waits for a tunnel that has died.
PATIENCE = 15
# What becomes of a call that an app had when the way to it broke, and that is not to be made twice.
EXECUTED = {"POST failed: 502", "POST failed: cut in the answer"}


async def call(user, identity, method):
    """Who answered: `app`, `upstream`, or what was wrong instead."""
    body = identity if method == "POST" else ""
    reader, writer = await asyncio.open_connection(*DOOR)
    try:
        head = f"{method} /call/{identity} HTTP/1.1\r\nHost: orders\r\nx-user: {user}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        head, _, said = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    status = head.split(" ")[1] if head else "cut"
    if status != "200":
        return "failed: " + status
    if f"content-length: {len(said)}" not in head.lower().split("\r\n"):
        return "failed: cut in the answer"
    match said.split(" "):
        case ["upstream", answered] if answered == identity:
            return "upstream"
        case [name, answered] if (name, answered) == (f"app-{user}", identity):
            return "app"
    return "wrong: " + said


async def calls(log, rate, users):
    stop, under_way = asyncio.Event(), set()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def noted(user, number):
        method = "POST" if number % 2 else "GET"
        begun = time.time()
        try:
            who = await asyncio.wait_for(call(user, f"{user}-{begun}-{number}", method), PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            who = f"failed: {error!r}"
        note = dict(user=user, begun=begun, ended=time.time(), method=method, who=who)
        print(json.dumps(note), file=log, flush=True)

    number, first = 0, time.monotonic()
    while not stop.is_set():
        for user in users:
            task = asyncio.create_task(noted(user, number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        number += 1
        await asyncio.sleep(max(0, first + number / rate - time.monotonic()))
    await asyncio.gather(*under_way)


def tell(arguments):
    ask = argparse.ArgumentParser()
    ask.add_argument("log")
    ask.add_argument("user")
    ask.add_argument("--since", type=float, default=0, help="calls that were begun then or later")
    ask.add_argument("--before", type=float, default=float("inf"))
    ask.add_argument("--failed", type=float, default=0, help="how many of 100 may have failed")
    ask.add_argument("--lost", type=int, help="how many POSTs may have failed that an app had, and nothing else")
    ask.add_argument("--app-only", action="store_true", help="the upstream was to answer none")
    ask.add_argument("--longest", type=float, help="how many ms each of them may have taken")
    ask.add_argument("--back", type=float, help="after how many ms the app has to have answered again")
    ask = ask.parse_args(arguments)
    notes = [json.loads(line) for line in open(ask.log)]
    notes = [n for n in notes if n["user"] == ask.user and ask.since <= n["begun"] < ask.before]
    took = sorted((n["ended"] - n["begun"]) * 1000 for n in notes if not n["who"].startswith("failed"))
    ended = [n["ended"] for n in notes if n["who"] == "app"]
    back = (min(ended) - ask.since) * 1000 if ended else float("inf")
    of = {who: sum(n["who"].startswith(who) for n in notes) for who in ("app", "upstream", "failed", "wrong")}
    failed = [f"{n['method']} {n['who']}" for n in notes if n["who"].startswith("failed")]
    said = f"{len(notes)} calls, " + ", ".join(f"{count} {who}" for who, count in of.items() if count)
    said += f", {', '.join(sorted(set(failed))[:5])}" if failed else ""
    said += f", longest {took[-1]:.0f} ms, median {took[len(took) // 2]:.0f} ms" if took else ""
    print(said + (f", the app after {back:.0f} ms" if ask.back else ""))
    bad = {*failed, *(n["who"] for n in notes if n["who"].startswith("wrong"))}
    if bad:
        print(f"{ask.user}: " + "; ".join(sorted(bad)[:5]), file=sys.stderr)
    may_fail = ask.failed * len(notes) / 100 if ask.lost is None else ask.lost
    return (
        bool(notes)
        and not of["wrong"]
        and len(failed) <= may_fail
        and (ask.lost is None or set(failed) <= EXECUTED)
        and not (ask.app_only and of["upstream"])
        and (ask.longest is None or not took or took[-1] <= ask.longest)
        and (ask.back is None or back <= ask.back)
    )


def body(way, user, size, rate):
    door = socket.create_connection(DOOR)
    head = f"Host: orders\r\nx-user: {user}\r\nConnection: close\r\n"
    if way == "up":
        door.sendall(f"POST /body HTTP/1.1\r\n{head}Content-Length: {size}\r\n\r\n".encode())
        bodies.send(door.sendall, size, rate)
        said = door.makefile("rb").read().decode().rpartition("\r\n\r\n")[2]
        checksum, gap = said.split(" ") if said else ("", 0)
    else:
        door.sendall(f"GET /body/{size}/{rate} HTTP/1.1\r\n{head}\r\n".encode())
        answer = door.makefile("rb")
        while answer.readline().strip():
            pass
        checksum, gap = bodies.receive(answer.read1, size)
    print(round(float(gap)))
    return checksum == bodies.checksum(size)


match sys.argv[1:]:
    case ["calls", log, rate, *users]:
        with open(log, "a") as log:
            asyncio.run(calls(log, float(rate), users))
    case ["tell", *arguments]:
        sys.exit(not tell(arguments))
    case [("down" | "up") as way, user, size, rate]:
        sys.exit(not body(way, user, int(size), float(rate)))
    case _:
        sys.exit(__doc__)
