"""Large bodies: the same bytes for everybody who knows the size, and no piece of them like another."""

import hashlib
import random
import time

PIECE = 32 * 1024
FILLING = random.Random(1).randbytes(PIECE)


def pieces(size):
    for number in range(0, size, PIECE):
        yield (number.to_bytes(8, "big") + FILLING[8:])[: size - number]


def checksum(size):
    seen = hashlib.sha256()
    for piece in pieces(size):
        seen.update(piece)
    return seen.hexdigest()


def send(write, size, rate):
    """No faster than RATE bytes a second; what was lost meanwhile is caught up with."""
    begun, sent = time.monotonic(), 0
    for piece in pieces(size):
        time.sleep(max(0, begun + sent / rate - time.monotonic()))
        write(piece)
        sent += len(piece)


def receive(read, size):
    """Its checksum, and the longest that nothing came, in ms: from the first byte on."""
    seen, left, longest, last = hashlib.sha256(), size, 0, None
    while left and (piece := read(min(left, PIECE))):
        now = time.monotonic()
        longest, last = max(longest, now - (last or now)), now
        seen.update(piece)
        left -= len(piece)
    return seen.hexdigest(), longest * 1000
