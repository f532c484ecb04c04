// Node's own HTTP server. Writes one line of JSON for each request that it has read, and only then answers.
const http = require('http');
const fs = require('fs');
const [port, path] = process.argv.slice(2);
const log = fs.openSync(path, 'a');

function seen(request, body, whole) {
    const line = { method: request.method, target: request.url, body: body.toString('latin1'), whole };
    fs.writeSync(log, JSON.stringify(line) + '\n');
}

const server = http.createServer((request, response) => {
    const pieces = [];
    let whole = false;
    request.on('data', (piece) => pieces.push(piece));
    request.on('end', () => {
        whole = request.complete;
        seen(request, Buffer.concat(pieces), whole);
        response.end('node');
    });
    request.on('error', () => {});
    request.on('close', () => whole || seen(request, Buffer.concat(pieces), false));
});
server.maxHeadersCount = 0;
server.listen({ port: Number(port), host: '127.0.0.1' });
