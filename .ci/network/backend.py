"""What answers: backend.py LEDGER NAME=PORT..., each of them with its name.

GET and POST /call/ID are answered with `NAME ID`; who executes a POST writes its ID into LEDGER, one line each. GET /body/SIZE/RATE
is a body of so many bytes, so many a second; POST /body is answered with `SUM GAP`: what came, and the longest that nothing did,
in ms.
"""

import http.server
import sys
import threading

import bodies


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A small answer is one write. In two, the second waits 40 ms for the system at the other end to acknowledge the first, and
    # whatever breaks meanwhile cuts an answer that has begun.
    wbufsize = 8192

    def do_GET(self):
        match self.path.split("/"):
            case ["", "body", size, rate]:
                self.send_response(200)
                self.send_header("Content-Length", size)
                self.end_headers()
                bodies.send(self.wfile.write, int(size), float(rate))
            case [*_, identity]:
                self.say(f"{self.server.name} {identity}")

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if self.path == "/body":
            self.say("%s %d" % bodies.receive(self.rfile.read1, length))
            return
        identity = self.rfile.read(length).decode()
        # One write, so that lines of several threads stay whole.
        ledger.write(f"{identity}\n".encode())
        self.say(f"{self.server.name} {identity}")

    def say(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, *_):
        """A connection that breaks is what is asked for here."""


ledger = open(sys.argv[1], "ab", buffering=0)
for server in sys.argv[2:]:
    name, port = server.split("=")
    listening = Server(("0.0.0.0", int(port)), Backend)
    listening.name = name
    threading.Thread(target=listening.serve_forever).start()
