//! Several developers, and several sessions of one, on one service.

use culvert_client::Exit;
use culvert_client::screen::Screen;
use culvert_client::session::SessionError;
use culvert_loadtest::caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::world::{World, leave};

use crate::TRANSPORTS;

#[tokio::test(flavor = "multi_thread")]
async fn two_developers_share_a_service_and_each_gets_their_own_requests() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let (app_a, app_b) = (Origin::named("alice").await.unwrap(), Origin::named("bob").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let bob = world.developer("bob").await.unwrap();
        let for_alice = alice.intercept("x-user=alice", &app_a.url(), transport).await.unwrap();
        let for_bob = bob.intercept("x-user=bob", &app_b.url(), transport).await.unwrap();
        let door = world.door().unwrap();
        for (field, wanted) in
            [("x-user: alice", "alice"), ("x-user: bob", "bob"), ("x-user: eve", "upstream")]
        {
            assert_eq!(
                caller::get(door, "/", &[field]).await.unwrap().text(),
                format!("{wanted} GET / HTTP/1.1\n")
            );
        }
        leave(for_bob).await.unwrap();
        assert_eq!(
            caller::get(door, "/", &["x-user: bob"]).await.unwrap().text(),
            "upstream GET / HTTP/1.1\n"
        );
        assert_eq!(
            caller::get(door, "/", &["x-user: alice"]).await.unwrap().text(),
            "alice GET / HTTP/1.1\n"
        );
        leave(for_alice).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_somebody_holds_is_refused_naming_the_holder() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let bob = world.developer("bob").await.unwrap();
        let held = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();

        let mut refused = bob.claim("x-user=alice", &app.url(), transport, Screen::silent()).unwrap();
        assert!(refused.ready().await.is_none());
        let error = refused.ended().await.unwrap_err();
        assert_eq!(error.exit(), Exit::Conflict, "{error}");
        assert!(error.to_string().contains("alice on "), "{error}");
        // And the holder has noticed nothing.
        let answer = caller::get(world.door().unwrap(), "/", &["x-user: alice"]).await.unwrap();
        assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
        leave(held).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_second_session_takes_over_from_the_first() {
    for transport in TRANSPORTS {
        let upstream = Origin::named("upstream").await.unwrap();
        let (old, new) = (Origin::named("old").await.unwrap(), Origin::named("new").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let mut first = alice.intercept("x-user=alice", &old.url(), transport).await.unwrap();
        let second = alice.intercept("x-user=alice", &new.url(), transport).await.unwrap();

        let door = world.door().unwrap();
        assert_eq!(caller::get(door, "/", &["x-user: alice"]).await.unwrap().text(), "new GET / HTTP/1.1\n");
        let error = culvert_loadtest::world::ended(&mut first).await.unwrap_err();
        let error = error.downcast_ref::<SessionError>().unwrap();
        assert_eq!(error.exit(), Exit::Conflict, "{error}");
        // The end of the first takes nothing away from the second.
        assert_eq!(caller::get(door, "/", &["x-user: alice"]).await.unwrap().text(), "new GET / HTTP/1.1\n");
        leave(second).await.unwrap();
        assert_eq!(
            caller::get(door, "/", &["x-user: alice"]).await.unwrap().text(),
            "upstream GET / HTTP/1.1\n"
        );
    }
}
