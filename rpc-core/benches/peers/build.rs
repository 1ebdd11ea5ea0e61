//! Writes tonic's client and server for the echo service. The service is described here and its message in the code,
//! so that no protoc is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let message = "crate::contestant::tonic::Body";
    let echo = Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type(message)
        .output_type(message)
        .codec_path("tonic_prost::ProstCodec")
        .build();
    Builder::new().compile(&[Service::builder().name("Echo").package("bench").method(echo).build()]);
    println!("cargo::rerun-if-changed=build.rs");
}
