//! Streams: a server pushes what happens to who watches, at the watcher's pace; a dropped watch ends at once.
//!
//! `cargo run -p rpc-core --example watch`

use std::net::Ipv4Addr;
use std::time::Duration;
use std::{error::Error, sync::Arc};

use rpc_core::driver::{system, udp::UdpSocket};
use rpc_core::peer::Peer;
use rpc_core::rpc::stream::{self, Window};
use rpc_core::rpc::{Ctx, Never, Sink};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

#[rpc_core::service]
trait Weather {
    /// Pushes temperatures of `city` until nobody listens, and answers how many there were.
    #[rpc(timeout = "60m")]
    async fn watch(&self, ctx: Ctx, city: String, reports: Sink<Report>) -> Result<u32, Never>;
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    city: String,
    celsius: i32,
}

struct Station;

impl Weather for Station {
    async fn watch(&self, ctx: Ctx, city: String, reports: Sink<Report>) -> Result<u32, Never> {
        for count in 0.. {
            let report = Report { city: city.clone(), celsius: 15 + count as i32 % 10 };
            // Waits when the watcher is behind by a window; fails when it is gone.
            if reports.send(&report).await.is_err() {
                return Ok(count);
            }
            ctx.runtime.sleep(Duration::from_millis(1)).await;
        }
        Ok(u32::MAX)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = system::runtime(Handle::current());
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into());
    let station = weather_services(Arc::new(Station));
    let server = Peer::builder(runtime.clone()).services(station).start_insecure(socket()?)?;
    let client = Peer::builder(runtime.clone()).start_insecure(socket()?)?;

    let weather = WeatherClient::new(client.remote(server.local_addr()));
    let (sink, mut reports) = stream::channel(Window { items: 16, bytes: 4 << 10 });
    let watch = runtime.spawn("watch", weather.watch("Bergen".to_owned(), sink).into_future());
    for _ in 0..5 {
        let Some(Report { city, celsius }) = reports.next().await.transpose()? else { break };
        println!("{city}: {celsius} degrees");
    }
    drop(reports);
    println!("{} reports were sent", watch.await??);
    client.close().await;
    Ok(())
}
