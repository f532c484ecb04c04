//! The table of docs/failure.md, cell by cell: what happens, where a request is then, what its caller gets by the policy, and that
//! nothing is executed twice. All with the programs that are shipped, over every transport.

mod app;
mod calls;
mod scene;
mod table;

use culvert_loadtest::world::{World, leave};
use tokio::task::{JoinSet, LocalSet};

use app::{App, Note};
use calls::Call;
use table::{Cell, Event, Policy, Stage};

use crate::TRANSPORTS;

/// Makes all of them happen side by side: most of what they take is waiting.
async fn come_out_as_the_table_says(events: impl IntoIterator<Item = Event>) {
    let mut scenes = JoinSet::new();
    let here = LocalSet::new();
    for event in events {
        scenes.spawn_local_on(scene::play(event), &here);
    }
    let complaints: Vec<_> = here.run_until(scenes.join_all()).await.into_iter().flatten().collect();
    assert!(complaints.is_empty(), "{} cells are wrong:\n{}", complaints.len(), complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_breaks_costs_callers_what_the_table_says() {
    come_out_as_the_table_says([Event::CablePulled, Event::UpDead, Event::DownDead, Event::CableBack]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_or_stops_costs_callers_what_the_table_says() {
    use Event::*;
    let events = [ClientKilled, ClientStopped, ClientContinued, ClientRestarted, ClientLeaves];
    come_out_as_the_table_says(events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_down_or_stops_costs_callers_what_the_table_says() {
    come_out_as_the_table_says([Event::AppDown, Event::AppThinks, Event::AppStopped]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_or_stops_costs_callers_what_the_table_says() {
    come_out_as_the_table_says([Event::RelayKilled, Event::RelayLeaves]).await;
}

/// On every transport; how soon, and in every version of HTTP, is `http::cancel`'s.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_hears_that_its_caller_is_gone() {
    for transport in TRANSPORTS {
        let app = App::start().await;
        let world = World::before("http://127.0.0.1:1").await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let (event, policy) = (Event::AppThinks, Policy::Upstream);
        let matches = format!("x-user={}", table::user(transport, policy));
        let session = alice.intercept(&matches, &format!("http://{}", app.address), transport).await.unwrap();
        for stage in [Stage::Confirmed, Stage::Answering] {
            for safe in [true, false] {
                let cell = Cell { event, stage, policy, safe, transport };
                let call = Call::begin(cell, world.door().unwrap()).await.unwrap();
                app.notes(Note::Head, &cell.path()).await;
                drop(call);
                app.notes(Note::Gone, &cell.path()).await;
            }
        }
        leave(session).await.unwrap();
    }
}
