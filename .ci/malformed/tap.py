"""Stands in front of a backend and keeps every byte that goes to it."""

import socket, threading


class Tap:
    def __init__(self, port, backend):
        self.backend = backend
        self.lock = threading.Lock()
        self.received = []  # (connection, bytes), in order
        self.connections = 0
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            caller, _ = listener.accept()
            self.connections += 1
            number = self.connections
            backend = socket.create_connection(("127.0.0.1", self.backend))
            for one in (caller, backend):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.copy, args=(caller, backend, number), daemon=True).start()
            threading.Thread(target=self.copy, args=(backend, caller, None), daemon=True).start()

    def copy(self, source, sink, number):
        try:
            while piece := source.recv(65536):
                if number:
                    with self.lock:
                        self.received.append((number, piece))
                sink.sendall(piece)
        except OSError:
            pass
        # Either end is both ends: nobody here half-closes.
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def take(self):
        """What came since the last time, by connection."""
        with self.lock:
            received, self.received = self.received, []
        by_connection = {}
        for number, piece in received:
            by_connection[number] = by_connection.get(number, b"") + piece
        return by_connection
