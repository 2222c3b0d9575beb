# What CI does is `just check`; each part can be run by itself.

# Everything that must hold before a change lands.
check: fmt lint doc test

fmt:
    cargo fmt --all --check
    cargo fmt --all --check --manifest-path plugins/Cargo.toml
    cargo fmt --all --check --manifest-path tests/plugins/Cargo.toml
    cargo fmt --all --check --manifest-path examples/policies/Cargo.toml
    cargo fmt --check --manifest-path tests/fuzz/Cargo.toml

lint:
    cargo clippy --release --workspace --all-targets -- -D warnings
    cargo clippy --release --target wasm32-wasip2 --manifest-path plugins/Cargo.toml -- -D warnings
    cargo clippy --release --target wasm32-wasip2 --manifest-path examples/policies/Cargo.toml -- -D warnings
    cargo clippy --release --manifest-path tests/fuzz/Cargo.toml -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

test:
    cargo test --release --workspace
    cargo test --locked --manifest-path examples/policies/Cargo.toml --target-dir target/example-policies

# What reads hostile input, each target for so many seconds.
fuzz seconds="60":
    tests/fuzz/run {{seconds}}

# Side by side with buildah and docker on this machine; needs both installed.
bench:
    cargo build --release
    python3 tests/bench/run.py --builder target/release/plywood

# Caches in a registry, side by side with buildah and docker; needs both installed, and mmdebstrap.
bench-cache:
    cargo build --release
    python3 tests/bench/cache.py --builder target/release/plywood

# The program with its plugins compiled ahead, as it is shipped.
dist:
    cargo build --profile dist
    target/dist/plywood plugin precompile target/precompiled
    PLYWOOD_PRECOMPILED_DIR="$PWD/target/precompiled" cargo build --profile dist

# The program's own image, for `docker load`: target/plywood-image.tar, and one with a shell.
image:
    host/cli/image/build

# Licences, advisories, sources.
deny:
    cargo deny check
