//! The commands that look at what runs, and end it: at the developer's and at the relay.

use std::time::Duration;

use culvert_loadtest::caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::process::{Ended, Process};
use culvert_loadtest::stack::{Home, Stack, Where};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::binaries;

const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    _upstream: Origin,
    app: Origin,
    stack: Stack,
    alice: Home,
}

impl Scene {
    async fn set() -> Self {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let alice = stack.developer("alice").await.unwrap();
        Self { _upstream: upstream, app, stack, alice }
    }

    async fn intercept(&self, name: &str, matches: &str) -> Process {
        let arguments = ["orders", &self.app.url(), matches, "--name", name];
        self.stack.intercept(&self.alice, &arguments).await.unwrap()
    }

    async fn culvert(&self, arguments: &[&str]) -> Ended {
        self.stack.run(&self.alice, arguments).await.unwrap()
    }

    /// `culvert-relay`, with the file of the relay that runs.
    async fn relay(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&binaries().await.relay);
        command.args(arguments).arg("-c").arg(self.stack.relay_yaml()).env_remove("CULVERT_LOG");
        Process::start("culvert-relay", command).unwrap().ended().await.unwrap()
    }
}

fn json(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_rung_and_what_is_claimed() {
    let scene = Scene::set().await;
    assert_eq!(json(&scene.culvert(&["status", "-o", "json"]).await), serde_json::json!({"clients": []}));
    let client = scene.intercept("mine", "x-user=alice").await;
    let status = json(&scene.culvert(&["status", "-o", "json"]).await);
    let [running] = status["clients"].as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!(running["process"], client.pid());
    assert_eq!((&running["identity"], &running["in_force"]), (&"alice".into(), &true.into()));
    assert_eq!(running["relay"], scene.stack.tunnel.to_string());
    assert_eq!(running["claims"][0]["name"], "mine");
    assert_eq!(running["claims"][0]["match"], "x-user=alice");
    let replica = &running["replicas"][0];
    assert_eq!(replica["transport"], "quic");
    let tunnel = &replica["tunnels"][0];
    assert_eq!((&tunnel["transport"], &tunnel["state"]), (&"quic".into(), &"in force".into()));
    assert!(tunnel["rtt_us"].as_u64().unwrap() > 0 && tunnel["sent_bytes"].as_u64().unwrap() > 0, "{tunnel}");
    assert!(tunnel["udp_buffers"]["receive_bytes"].as_u64().unwrap() > 0, "{tunnel}");

    let table = scene.culvert(&["status"]).await;
    assert!(table.stdout.contains("as alice: connected") && table.stdout.contains("claim mine: orders"));
    drop(client);
    // Killed: nothing of it is shown, and nothing stands in the next one's way.
    assert_eq!(scene.culvert(&["status"]).await.stdout, "no client is running\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_gives_back_the_claim_that_it_names_and_no_other() {
    let scene = Scene::set().await;
    let mine = scene.intercept("mine", "x-user=alice").await;
    let mut other = scene.intercept("other", "x-user=other").await;
    assert_eq!(scene.culvert(&["leave", "mine"]).await.code, Some(0));
    let ended = mine.ended().await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let answer = caller::get(scene.stack.door, "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "upstream GET / HTTP/1.1\n");
    assert!(other.is_running());
    let nobody = scene.culvert(&["leave", "mine"]).await;
    assert_eq!(nobody.code, Some(2));
    assert!(
        nobody.stderr.contains("no running client of yours on this machine holds `mine`"),
        "{}",
        nobody.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_what_there_is_and_ends_it() {
    let scene = Scene::set().await;
    let client = scene.intercept("mine", "x-user=alice").await;
    let routes = json(&scene.relay(&["routes", "-o", "json", "--log-format", "term"]).await);
    assert_eq!(
        (&routes["claims"][0]["name"], &routes["claims"][0]["owner"]),
        (&"mine".into(), &"alice".into())
    );
    assert_eq!(routes["claims"][0]["tunnels"][0], routes["tunnels"][0]["id"]);
    assert_eq!(routes["tunnels"][0]["transport"], "quic");

    assert_eq!(scene.relay(&["kill", "nobodys"]).await.code, Some(2));
    let id = routes["tunnels"][0]["id"].to_string();
    let killed = scene.relay(&["kill", &id]).await;
    assert_eq!((killed.code, killed.stderr.as_str()), (Some(0), "killed: 1 claims, 1 tunnels\n"));
    let ended = client.ended().await.unwrap();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("ended by whoever runs the relay"), "{}", ended.stderr);

    // By its name, the same.
    let client = scene.intercept("mine", "x-user=alice").await;
    assert_eq!(scene.relay(&["kill", "mine"]).await.code, Some(0));
    assert_eq!(client.ended().await.unwrap().code, Some(3));
    let answer = caller::get(scene.stack.door, "/", &["x-user: alice"]).await.unwrap();
    assert_eq!(answer.text(), "upstream GET / HTTP/1.1\n");
    let empty = async {
        while scene.relay(&["routes"]).await.stdout.lines().count() > 1 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, empty).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_run_is_named_as_that() {
    let mut scene = Scene::set().await;
    scene.stack.relay.signal("TERM").await.unwrap();
    let gone = async {
        while scene.stack.relay.is_running() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let asked = scene.relay(&["routes"]).await;
    assert_eq!(asked.code, Some(5), "{}", asked.stderr);
    assert!(asked.stderr.contains("none does"), "{}", asked.stderr);
}
