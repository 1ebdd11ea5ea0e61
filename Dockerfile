# Two ways to the same image FROM scratch, with static binaries and nothing else in it:
#   default          builds the binaries in a container (needs to pull the rust image)
#   target prebuilt  takes the ones staged under target/docker (needs no registry):
#                    KV_BUILD_TARGET=prebuilt docker-compose build
# `prebuilt` stands first so that building it never looks at the stage that pulls.
FROM scratch AS prebuilt
COPY target/docker/kv-server target/docker/kv-client /
COPY --chown=65532:65532 target/docker/data /data
USER 65532:65532
ENTRYPOINT ["/kv-server"]

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p kv-server -p kv-client --target x86_64-unknown-linux-gnu --config 'target.x86_64-unknown-linux-gnu.rustflags=["-C","target-feature=+crt-static"]' \
    && mkdir -p target/docker/data \
    && cp target/x86_64-unknown-linux-gnu/release/kv-server target/x86_64-unknown-linux-gnu/release/kv-client target/docker/

FROM scratch AS runtime
COPY --from=build /src/target/docker/kv-server /src/target/docker/kv-client /
COPY --from=build --chown=65532:65532 /src/target/docker/data /data
USER 65532:65532
ENTRYPOINT ["/kv-server"]
