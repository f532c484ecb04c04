//! Bodies larger than anybody keeps, through the programs as they are shipped. `BULK_MIB` asks for larger ones.

use culvert_loadtest::bulk;

use crate::binaries;

/// Four times what a program may grow by.
const MIB: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_kept_by_nobody() {
    let mib = std::env::var_os("BULK_MIB").map_or(MIB, |mib| mib.to_str().unwrap().parse().unwrap());
    let rows = bulk::run(binaries().await, mib << 20).await.unwrap();
    println!("{}", bulk::table(&rows));
    for row in rows {
        assert!(row.holds(), "{row:?}");
    }
}
