"""Python's own HTTP server. Writes one line of JSON for each request that it has read, and only then answers."""

import http.server, json, sys

port, path = int(sys.argv[1]), sys.argv[2]


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        body, whole = b"", True
        if self.headers.get("Transfer-Encoding"):
            while (line := self.rfile.readline()).endswith(b"\r\n") and (size := int(line, 16)):
                body += self.rfile.read(size)
                self.rfile.read(2)
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                pass
            whole = line == b"\r\n"
        elif length := int(self.headers.get("Content-Length", 0)):
            body = self.rfile.read(length)
            whole = len(body) == length
        seen = dict(method=self.command, target=self.path, body=body.decode("latin-1"), whole=whole)
        with open(path, "a") as log:
            log.write(json.dumps(seen) + "\n")
        self.close_connection |= not whole
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"python")


http.server.ThreadingHTTPServer(("127.0.0.1", port), Backend).serve_forever()
