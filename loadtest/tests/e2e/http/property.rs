//! Any legal exchange, its bytes arriving in whatever parts, comes out on the other side as it went in: in every field and in
//! the body, both ways, on each way, from callers of HTTP/1 and of HTTP/2. What may differ is in [`onward`].

mod http2;
mod legal;
mod onward;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};

use culvert_client::dial::Rungs;
use culvert_client::session::Session;
use culvert_loadtest::caller::Caller;
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::{Answer, Origin};
use culvert_loadtest::world::World;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{PATIENCE, culvert};
pub(super) use http2::patient;
use legal::{Exchange, exchange};

/// Each is one exchange from a caller of HTTP/1 and one from a caller of HTTP/2. `PROPTEST_CASES` asks for more.
const CASES: u32 = 60;

#[test]
fn any_exchange_passes_through_as_it_is() {
    holds(None);
}

#[test]
fn any_exchange_goes_down_a_tunnel_over_quic_as_it_is() {
    holds(Some(Rungs::Quic));
}

#[test]
fn any_exchange_goes_down_a_tunnel_over_tls_as_it_is() {
    holds(Some(Rungs::Tls));
}

/// Where the same culvert serves every exchange.
struct Stage {
    world: World,
    #[expect(dead_code, reason = "the claim ends with it")]
    session: Option<Session>,
    #[expect(dead_code, reason = "it ends with it")]
    behind: Origin,
    scene: Arc<Mutex<Scene>>,
}

/// What whoever stands behind answers next, and what it has heard.
#[derive(Default)]
struct Scene {
    answer: Answer,
    heard: Vec<Message>,
}

fn holds(rungs: Option<Rungs>) {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().hash_one(0));
    }
    let seed = config.rng_seed;
    let runtime = Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new(rungs));
    let outcome = TestRunner::new(config).run(&exchange(), |exchange| {
        runtime.block_on(async {
            stage.http1(&exchange).await?;
            stage.http2(&exchange).await
        })
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {failure}");
    }
}

impl Stage {
    async fn new(rungs: Option<Rungs>) -> Self {
        let scene = Arc::new(Mutex::new(Scene::default()));
        let behind = Origin::with({
            let scene = Arc::clone(&scene);
            move |request| {
                let mut scene = scene.lock().unwrap();
                scene.heard.push(request.clone());
                scene.answer.clone()
            }
        });
        let behind = behind.await.unwrap();
        let upstream = if rungs.is_some() { "http://127.0.0.1:1" } else { &behind.url() };
        let (world, session) = culvert(rungs, "", upstream, &behind.url()).await.unwrap();
        Self { world, session, behind, scene }
    }

    async fn http1(&self, exchange: &Exchange) -> Result<(), TestCaseError> {
        self.set(exchange);
        let mut caller = Caller::connect(self.world.door().unwrap()).await.unwrap();
        let upload = exchange.request.bytes();
        caller.send_parted(&upload, &exchange.upload_cuts.of(upload.len())).await.map_err(failed)?;
        let mut answers = Vec::new();
        loop {
            let answer = match &exchange.request.method[..] {
                "HEAD" => caller.bodiless_answer().await,
                _ => caller.answer().await,
            };
            let answer = answer.map_err(failed)?;
            let informed = answer.status() < 200;
            answers.push(onward::heard(&answer));
            if !informed {
                break;
            }
        }
        prop_assert_eq!(self.heard()?, onward::request(&exchange.request));
        let expected: Vec<_> =
            exchange.answers().map(|said| onward::response(said, exchange.request.version)).collect();
        prop_assert_eq!(answers, expected);
        // It may have closed already; before the answer this would have been to hang up.
        let _ = caller.finish().await;
        let rest = caller.rest().await.map_err(failed)?;
        prop_assert!(rest.is_empty(), "and then {}", rest.escape_ascii());
        Ok(())
    }

    async fn http2(&self, exchange: &Exchange) -> Result<(), TestCaseError> {
        self.set(exchange);
        let (mut requests, _driver) = patient(self.world.door().unwrap()).await;
        let Some(head) = http2::head(&exchange.request) else { return Ok(()) };
        let asking = http2::ask(&mut requests, head, &exchange.request.body, &exchange.upload_cuts);
        let answers = timeout(PATIENCE, asking).await.map_err(failed)?.map_err(failed)?;
        let expected = onward::request(&exchange.request);
        let heard = self.heard()?;
        prop_assert_eq!(heard.takes_trailers, expected.takes_trailers);
        prop_assert_eq!(onward::in_http2(heard), onward::in_http2(expected));
        let said = exchange.informed.iter().chain([&exchange.response]);
        let expected: Vec<_> = said.map(|said| onward::in_http2(onward::response(said, "2"))).collect();
        prop_assert_eq!(answers, expected);
        Ok(())
    }

    fn set(&self, exchange: &Exchange) {
        let said = exchange.informed.iter().chain([&exchange.response]);
        let bytes: Vec<u8> = said.flat_map(legal::Response::bytes).collect();
        let cuts = exchange.answer_cuts.of(bytes.len());
        let answer = Answer { bytes, cuts, close: exchange.response.is_last(), ..Answer::default() };
        *self.scene.lock().unwrap() = Scene { answer, heard: Vec::new() };
    }

    /// The one request that got there.
    fn heard(&self) -> Result<onward::Heard, TestCaseError> {
        let heard = std::mem::take(&mut self.scene.lock().unwrap().heard);
        prop_assert_eq!(heard.len(), 1, "requests behind");
        Ok(onward::heard(&heard[0]))
    }
}

impl Exchange {
    /// What a caller of HTTP/1 is answered; HTTP/1.0 knows no informational answers.
    fn answers(&self) -> impl Iterator<Item = &legal::Response> {
        let informed = if self.request.version == "1.0" { &[][..] } else { &self.informed };
        informed.iter().chain([&self.response])
    }
}

fn failed(cause: impl Into<anyhow::Error>) -> TestCaseError {
    TestCaseError::fail(format!("{:#}", cause.into()))
}
