"""An honest caller beside others: asks again and again until it is told to stop, from an address of its own, on a kept
connection and on new ones in turn. Prints how many were answered, how many not, and how long the slowest hundredth
waited, in ms.

usage: honest.py DOOR_PORT PATH, and SIGTERM
"""

import http.client, signal, sys, time

door, path = int(sys.argv[1]), sys.argv[2]
going = True


def stop(*_):
    global going
    going = False


def connect():
    return http.client.HTTPConnection("127.0.0.1", door, timeout=10, source_address=("127.0.0.2", 0))


signal.signal(signal.SIGTERM, stop)
took, failed, kept = [], 0, connect()
while going:
    fresh = len(took) % 2
    caller = connect() if fresh else kept
    begun = time.monotonic()
    try:
        caller.request("GET", path)
        answer = caller.getresponse()
        answer.read()
        failed += answer.status != 200
    except (OSError, http.client.HTTPException) as cause:
        print(cause, file=sys.stderr)
        failed += 1
        caller.close()
    took.append(time.monotonic() - begun)
    if fresh:
        caller.close()
    time.sleep(0.01)
print(len(took), failed, round(1000 * sorted(took)[len(took) * 99 // 100]))
