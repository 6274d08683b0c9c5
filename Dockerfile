# A static proa, alone in an empty image: run it, or `COPY --from` this image into yours (examples/Dockerfile).
FROM rust:1-alpine AS build
# ring compiles a little C.
RUN apk add --no-cache gcc musl-dev
WORKDIR /proa
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY kubectl-proa kubectl-proa
COPY localpod localpod
COPY examples examples
COPY benches benches
COPY tests tests
# The list of crates goes into the binary, for scanners of images: docs/security.md.
RUN cargo install cargo-auditable --version '^0.7' --locked
# A target that is named keeps the flag away from procedural macros, which are libraries. What the flag is for: docs/performance.md.
RUN RUSTFLAGS="-C relocation-model=static" cargo auditable build --release --locked --package proa --bin proa \
      --target "$(rustc --print host-tuple)" \
 && cp target/*/release/proa /proa/proa

FROM scratch
COPY --from=build /proa/proa /proa
# Any user without rights will do; this number is the one that distroless images use.
USER 65532:65532
ENTRYPOINT ["/proa"]
