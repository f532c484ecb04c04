//! What may be said: any legal exchange as its two ends say it, byte for byte. Nothing here knows what becomes of it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

/// A field line: its name as it is spelt, and its value without the white space around it.
pub(super) type Line = (String, Vec<u8>);

#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) request: Request,
    /// Said before the answer.
    pub(super) informed: Vec<Response>,
    pub(super) response: Response,
    pub(super) upload_cuts: Cuts,
    pub(super) answer_cuts: Cuts,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) version: &'static str,
    pub(super) method: String,
    /// In origin-form, or `*`.
    pub(super) target: String,
    /// Said in absolute-form.
    pub(super) absolute: bool,
    pub(super) host: Option<&'static str>,
    /// What is said for this connection only stands among them, and so does what frames the body.
    pub(super) lines: Vec<Line>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) version: &'static str,
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) lines: Vec<Line>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Nothing follows the head, whatever its fields say.
    Nothing,
    Length(Vec<u8>),
    Chunks(Vec<Chunk>, Vec<Line>),
    /// Until the connection ends.
    UntilEnd(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// The line before it, without its end.
    head: String,
    data: Vec<u8>,
}

/// Where bytes are parted on their way.
#[derive(Clone, Debug)]
pub(super) enum Cuts {
    At(Vec<Index>),
    Everywhere,
}

pub(super) fn exchange() -> impl Strategy<Value = Exchange> {
    (method(), request(), vec(informed(), 0..3), response(), cuts(), cuts()).prop_map(
        |(method, mut request, informed, mut response, upload_cuts, answer_cuts)| {
            if method == "OPTIONS" && request.target.len() % 4 == 0 {
                (request.target, request.absolute) = ("*".to_owned(), false);
            }
            response.to(&method);
            // HTTP/1.0 knows none of them (RFC 9110 §15.2).
            let informed = if response.version == "1.0" { Vec::new() } else { informed };
            Exchange { request: Request { method, ..request }, informed, response, upload_cuts, answer_cuts }
        },
    )
}

fn method() -> impl Strategy<Value = String> {
    let token = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}".prop_filter("not served", |token| token != "CONNECT");
    const KNOWN: [&str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH", "get"];
    prop_oneof![4 => select(&KNOWN[..]).prop_map(str::to_owned), 1 => token]
}

/// RFC 3986's path and query, and some of what browsers say unescaped.
fn target() -> impl Strategy<Value = String> {
    let special =
        select(&["%2F", "//", ";", "%00", "/../", "/./", "%zz", "%e9", "?", "??", "&=", "|", "\""][..]);
    let part = prop_oneof![special.prop_map(str::to_owned), "[A-Za-z0-9._~!$&'()*+,;=:@/?-]{1,8}"];
    vec(part, 0..8).prop_map(|parts| format!("/{}", parts.concat()))
}

fn request() -> impl Strategy<Value = Request> {
    let version = prop_oneof![5 => Just("1.1"), 1 => Just("1.0")];
    const HOSTS: [&str; 6] =
        ["orders.example", "orders.example:8080", "127.0.0.1", "[::1]:80", "ORDERS.example.", "a_b"];
    let known = lines_of(&[
        ("Accept", "*/*"),
        ("accept-encoding", "gzip, br;q=0.5"),
        ("Authorization", "Basic YTpi"),
        ("Content-Type", "application/json"),
        ("COOKIE", "a=1; b=\"2\""),
        ("Cookie", "c=3"),
        ("Range", "bytes=0-3"),
        ("If-None-Match", "\"x\", W/\"y\""),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Via", "1.1 before"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("Sec-Fetch-Mode", ""),
    ]);
    let hop_by_hop = lines_of(&[
        ("Connection", "keep-alive, X-Only-This-Connection"),
        ("X-Only-This-Connection", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "gzip;q=0.5, trailers"),
        // Declined by being served as what it also is.
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ]);
    let lines = (lines(5), known, hop_by_hop, any::<u64>());
    (version, target(), any::<[bool; 3]>(), select(&HOSTS[..]), lines, framing()).prop_map(
        |(version, target, [absolute, named, rare], host, (own, known, hop_by_hop, seed), framing)| {
            let mut lines = [own, known, hop_by_hop].concat();
            lines.push(("x-user".to_owned(), b"alice".to_vec()));
            let body = match framing {
                Framing::Nothing | Framing::UntilEnd(_) => Body::Nothing,
                Framing::Length(data) => Body::Length(data),
                Framing::Chunks(chunks, _) if version == "1.0" => Body::Length(whole(&chunks)),
                Framing::Chunks(chunks, trailers) => Body::Chunks(chunks, trailers),
            };
            body.frame(&mut lines);
            // Only HTTP/1.0 may leave it out.
            let host = (version == "1.1" || named).then_some(host);
            lines.extend(host.map(|host| ("Host".to_owned(), host.as_bytes().to_vec())));
            shuffle(&mut lines, seed);
            let absolute = absolute && rare && host.is_some();
            Request { version, method: String::new(), target, absolute, host, lines, body }
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let version = prop_oneof![5 => Just("1.1"), 1 => Just("1.0")];
    let status = prop_oneof![
        6 => select(&[200_u16, 201, 204, 206, 205, 301, 304, 401, 404, 416, 500, 502, 503][..]),
        1 => 200_u16..600,
    ];
    let known = lines_of(&[
        ("Set-Cookie", "z=1; Path=/"),
        ("set-cookie", "a=2"),
        ("Set-Cookie", "z=1; Path=/"),
        ("Content-Type", "text/html; charset=\"utf-8\""),
        ("Content-Encoding", "gzip"),
        ("Content-Range", "bytes 0-3/9"),
        ("Date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ("Server", "Apache/1.3"),
        ("WWW-Authenticate", "Basic realm=\"a, b\", Digest x=1"),
        ("Location", "http://elsewhere.example/%2F//;"),
        ("Via", "1.1 behind"),
        ("Trailer", "X-Sum"),
    ]);
    let hop_by_hop = lines_of(&[
        ("Connection", "X-Only-This-Connection"),
        ("X-Only-This-Connection", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
    ]);
    let lines = (lines(5), known, hop_by_hop, any::<u64>());
    (version, status, reason(), lines, framing()).prop_map(
        |(version, status, reason, (own, known, hop_by_hop, seed), framing)| {
            let mut lines = [own, known, hop_by_hop].concat();
            let body = match framing {
                // A body that nothing ends ends with the connection.
                Framing::Nothing => Body::Length(Vec::new()),
                Framing::Length(data) => Body::Length(data),
                Framing::UntilEnd(data) => Body::UntilEnd(data),
                Framing::Chunks(chunks, _) if version == "1.0" => Body::UntilEnd(whole(&chunks)),
                Framing::Chunks(chunks, trailers) => Body::Chunks(chunks, trailers),
            };
            // 204 has no length and no coding (RFC 9110 §8.6, RFC 9112 §6.1), and the coding of a 304's body is of no use.
            match (status, &body) {
                (204, _) | (304, Body::Chunks(..)) => {}
                _ => body.frame(&mut lines),
            }
            shuffle(&mut lines, seed);
            Response { version, status, reason, lines, body }
        },
    )
}

fn informed() -> impl Strategy<Value = Response> {
    let status = prop_oneof![select(&[100_u16, 102, 103][..]), 104_u16..200];
    (status, reason(), lines(3)).prop_map(|(status, reason, mut lines)| {
        lines.push(("Link".to_owned(), b"</a.css>; rel=preload".to_vec()));
        Response { version: "1.1", status, reason, lines, body: Body::Nothing }
    })
}

impl Response {
    /// Neither HEAD nor these statuses have a body.
    fn to(&mut self, method: &str) {
        if method == "HEAD" || matches!(self.status, 204 | 304) {
            self.body = Body::Nothing;
        }
    }

    /// Nothing more is said on its connection.
    pub(super) fn is_last(&self) -> bool {
        self.version == "1.0" || matches!(self.body, Body::UntilEnd(_))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("HTTP/{} {} {}\r\n", self.version, self.status, self.reason).into_bytes();
        put(&self.lines, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        self.body.put(&mut bytes);
        bytes
    }
}

impl Request {
    pub(super) fn takes_trailers(&self) -> bool {
        self.lines.iter().any(|(name, _)| name == "TE")
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let authority = self.host.filter(|_| self.absolute).map(|host| format!("http://{host}"));
        let authority = authority.unwrap_or_default();
        let line = format!("{} {authority}{} HTTP/{}\r\n", self.method, self.target, self.version);
        let mut bytes = line.into_bytes();
        put(&self.lines, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        self.body.put(&mut bytes);
        bytes
    }
}

impl Body {
    pub(super) fn data(&self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Length(data) | Self::UntilEnd(data) => data.clone(),
            Self::Chunks(chunks, _) => whole(chunks),
        }
    }

    pub(super) fn trailers(&self) -> &[Line] {
        match self {
            Self::Chunks(_, trailers) => trailers,
            Self::Nothing | Self::Length(_) | Self::UntilEnd(_) => &[],
        }
    }

    /// Adds the line that says where it ends.
    fn frame(&self, lines: &mut Vec<Line>) {
        match self {
            Self::Nothing | Self::UntilEnd(_) => {}
            Self::Length(data) => {
                lines.push(("Content-length".to_owned(), data.len().to_string().into_bytes()));
            }
            Self::Chunks(..) => lines.push(("transfer-Encoding".to_owned(), b"Chunked".to_vec())),
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Nothing => {}
            Self::Length(data) | Self::UntilEnd(data) => bytes.extend_from_slice(data),
            Self::Chunks(chunks, trailers) => {
                for chunk in chunks {
                    bytes.extend_from_slice(chunk.head.as_bytes());
                    bytes.extend_from_slice(b"\r\n");
                    bytes.extend_from_slice(&chunk.data);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"000;last\r\n");
                put(trailers, bytes);
                bytes.extend_from_slice(b"\r\n");
            }
        }
    }
}

impl Cuts {
    /// In bytes of so many, in order.
    pub(super) fn of(&self, length: usize) -> Vec<usize> {
        match self {
            Self::At(places) => {
                let mut cuts: Vec<_> = places.iter().map(|place| place.index(length.max(1))).collect();
                cuts.sort_unstable();
                cuts
            }
            // Of a large body only its beginning: the head and what borders on it.
            Self::Everywhere => (1..length.min(1500)).collect(),
        }
    }
}

enum Framing {
    Nothing,
    Length(Vec<u8>),
    Chunks(Vec<Chunk>, Vec<Line>),
    UntilEnd(Vec<u8>),
}

impl std::fmt::Debug for Framing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Framing")
    }
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        2 => Just(()).prop_map(|()| Framing::Nothing),
        3 => data().prop_map(Framing::Length),
        3 => (vec(chunk(), 0..5), lines(4)).prop_map(|(chunks, trailers)| Framing::Chunks(chunks, trailers)),
        1 => data().prop_map(Framing::UntilEnd),
    ]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..300),
        // More than is kept, more than one frame, and not all of it the same.
        1 => (60_000_usize..200_000, any::<u8>()).prop_map(|(length, seed)| {
            (0..length).map(|at| (at % 251).to_le_bytes()[0] ^ seed).collect()
        }),
    ]
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let extension = select(&["", "", ";a", ";name=\"va;l\\\"ue\"", " ;x=y"][..4]);
    (data().prop_filter("the last one", |data| !data.is_empty()), extension, 0..3_usize).prop_map(
        |(data, extension, spelling)| {
            let size = data.len();
            let size = [format!("{size:x}"), format!("{size:X}"), format!("000{size:x}")][spelling].clone();
            Chunk { head: size + extension, data }
        },
    )
}

fn whole(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect()
}

/// Names that mean nothing to anybody.
fn lines(most: usize) -> impl Strategy<Value = Vec<Line>> {
    let name = "[xX][-][A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}".prop_filter("means something", |name| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        !name.starts_with("x-forwarded-") && name != "x-real-ip" && name != "x-user"
    });
    vec((name, value()), 0..most)
}

/// Visible bytes and bytes beyond ASCII, white space only within.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let visible = || prop_oneof![3 => 0x21u8..0x7f, 1 => 0x80u8..=0xff];
    prop_oneof![
        1 => Just(Vec::new()),
        4 => vec(visible(), 1..20),
        1 => (visible(), "[ \t]{1,3}", visible()).prop_map(|(a, white, b)| [&[a], white.as_bytes(), &[b]].concat()),
    ]
}

fn reason() -> impl Strategy<Value = String> {
    prop_oneof![Just("OK".to_owned()), Just(String::new()), "[!-~]([ -~]{0,20}[!-~])?"]
}

/// Some of these, in order.
fn lines_of(known: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Vec<Line>> {
    subsequence(known, 0..=known.len()).prop_map(|lines| {
        lines.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    })
}

fn cuts() -> impl Strategy<Value = Cuts> {
    prop_oneof![6 => vec(any::<Index>(), 0..6).prop_map(Cuts::At), 1 => Just(Cuts::Everywhere)]
}

/// The same white space everywhere would show less.
fn put(lines: &[Line], bytes: &mut Vec<u8>) {
    for (number, (name, value)) in lines.iter().enumerate() {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice([&b": "[..], b":", b":\t ", b":   "][number % 4]);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice([&b"\r\n"[..], b" \r\n", b"\t\r\n"][number % 3]);
    }
}

fn shuffle(lines: &mut [Line], mut seed: u64) {
    for at in (1..lines.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        lines.swap(at, usize::try_from(seed >> 33).unwrap_or_default() % (at + 1));
    }
}
